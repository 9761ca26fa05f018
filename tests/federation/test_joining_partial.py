"""Joins that leave the members out: the room is usable at once, the rest follows, and what needs it waits."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from homeserver.matrix.signing import SigningKey
from tests.federation.resident import MEMBER, V1, V2, PeerRoom, path_ids
from tests.kit.client import Client, timeline
from tests.kit.federation import Answer, Received
from tests.kit.reactor import run_in_reactor
from tests.kit.waiting import until_equal, until_synced

DOWN = Answer({"errcode": "M_UNKNOWN", "error": "not now"}, 500)


def join(client: Client, room: PeerRoom, **about: Any) -> Any:
    return client.post("/join/{}", {}, at=[room.room_id], query={"via": [room.peer.server_name]}, **about)


def make_room(peer: Any, version: str = "11") -> PeerRoom:
    room = PeerRoom.create(peer, version).serve()
    room.omits_members = True
    for name in ("bob", "carol"):
        room.join(name)
    return room


def hold_state(room: PeerRoom) -> threading.Event:
    """The peer tells no state until the event is set."""
    told = threading.Event()

    def state_ids(received: Received) -> Any:
        return room.on_state_ids(received) if told.is_set() else DOWN

    room.peer.answer("GET", f"{V1}/state_ids/", state_ids)
    return told


def is_partial(hearth: Any, room: PeerRoom) -> bool:
    partial = run_in_reactor(lambda: hearth.running.services.core.partial.get(room.room_id))
    return partial is not None


def members(client: Client, room: PeerRoom) -> set[str]:
    return set(client.get("/rooms/{}/joined_members", at=[room.room_id])["joined"])


@pytest.fixture
def quick_retries(monkeypatch: Any) -> None:
    monkeypatch.setattr("federation.joining.partial_state.FIRST_PAUSE_MS", 20)
    monkeypatch.setattr("federation.joining.partial_state.MAX_PAUSE_MS", 100)


@pytest.mark.parametrize("version", ["1", "6", "10", "11", "12"])
def test_room_is_used_before_its_members_are_known(
    start_federated: Any, start_peer: Any, quick_retries: None, version: str
) -> None:
    hearth, peer = start_federated(), start_peer()
    alice, room = hearth.register("alice"), make_room(peer, version)
    told = hold_state(room)
    join(alice, room)
    assert "omit_members=true" in peer.received(f"{V2}/send_join/")[0].query
    event_id = alice.send(room.room_id, "I am here")
    assert timeline(alice.sync(), room.room_id)[-1]["event_id"] == event_id
    assert alice.get_state(room.room_id, "m.room.name") == {"name": "Peer's room"}
    page = alice.messages(room.room_id, limit=100)["chunk"]
    assert {event["event_id"] for event in page} > set(room.state.values()) - {
        room.state["m.room.member", alice.user_id]
    }
    assert is_partial(hearth, room)
    told.set()
    assert members(alice, room) == {room.creator, room.user("bob"), room.user("carol"), alice.user_id}
    assert not is_partial(hearth, room)
    state = alice.get("/rooms/{}/state", at=[room.room_id])
    assert {event["event_id"] for event in state} == set(room.state.values())
    shown = alice.sync()["rooms"]["join"][room.room_id]["state"]["events"]
    assert {event["state_key"] for event in shown} >= {room.creator, room.user("bob"), room.user("carol")}


@pytest.mark.parametrize("version", ["1", "10", "12"])
def test_invited_user_joins_without_the_members(
    start_federated: Any, start_peer: Any, quick_retries: None, version: str
) -> None:
    hearth, peer = start_federated(), start_peer()
    alice, room = hearth.register("alice"), make_room(peer, version)
    room.send("m.room.join_rules", {"join_rule": "invite"}, "")
    room.send(MEMBER, {"membership": "invite"}, alice.user_id)
    told = hold_state(room)
    join(alice, room)
    alice.send(room.room_id, "I was invited")
    told.set()
    assert room.user("bob") in members(alice, room)


def test_members_that_do_not_come_are_not_waited_for_without_end(
    start_federated: Any, start_peer: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr("homeserver.rooms.partial_states.MAX_WAIT_MS", 200)
    hearth, peer = start_federated(), start_peer()
    alice, room = hearth.register("alice"), make_room(peer)
    hold_state(room)
    join(alice, room)
    alice.get("/rooms/{}/members", at=[room.room_id], expect=503)
    alice.kick(room.room_id, room.user("bob"), expect=503)
    alice.get("/rooms/{}/state/m.room.name", at=[room.room_id])


def test_full_state_is_fetched_after_a_restart(start_federated: Any, start_peer: Any) -> None:
    hearth, peer = start_federated(), start_peer()
    alice, room = hearth.register("alice"), make_room(peer)
    told = hold_state(room)
    join(alice, room)
    hearth.stop()
    told.set()
    hearth.start()
    alice = Client(hearth.url, alice.token, alice.user_id)
    assert members(alice, room) == {room.creator, room.user("bob"), room.user("carol"), alice.user_id}


def test_other_servers_of_the_room_are_asked_for_its_state(
    start_federated: Any, start_peer: Any, quick_retries: None
) -> None:
    hearth, peer, other = start_federated(), start_peer(), start_peer()
    alice, room = hearth.register("alice"), make_room(peer)
    peer.answer("GET", f"{V1}/state_ids/", DOWN)
    peer.answer("GET", f"{V1}/state/", DOWN)
    for name, reply in (("state_ids", room.on_state_ids), ("state", room.on_state), ("event", room.on_event)):
        other.answer("GET", f"{V1}/{name}/", reply)

    def with_servers(received: Received) -> Any:
        return {**room.on_send_join(received), "servers_in_room": [peer.server_name, "not a name", other.server_name]}

    peer.answer("PUT", f"{V2}/send_join/", with_servers)
    join(alice, room)
    assert room.user("bob") in members(alice, room)


def test_second_user_joins_while_the_members_are_unknown(
    start_federated: Any, start_peer: Any, quick_retries: None
) -> None:
    hearth, peer = start_federated(), start_peer()
    alice, dave, room = hearth.register("alice"), hearth.register("dave"), make_room(peer)
    told = hold_state(room)
    join(alice, room)
    dave.join(room.room_id)
    assert len(peer.received(f"{V2}/send_join/")) == 2
    dave.send(room.room_id, "me too")
    told.set()
    expected = {room.creator, room.user("bob"), room.user("carol"), alice.user_id, dave.user_id}
    assert members(dave, room) == expected == members(alice, room)


def test_user_who_is_banned_is_found_out_by_the_resident(
    start_federated: Any, start_peer: Any, quick_retries: None
) -> None:
    hearth, peer = start_federated(), start_peer()
    alice, dave, room = hearth.register("alice"), hearth.register("dave"), make_room(peer)
    room.send(MEMBER, {"membership": "ban"}, dave.user_id)
    told = hold_state(room)
    join(alice, room)
    peer.answer("GET", f"{V1}/make_join/", {"errcode": "M_FORBIDDEN", "error": "banned"}, status=403)
    dave.join(room.room_id, expect=403)
    told.set()
    assert dave.user_id not in members(alice, room)
    dave.join(room.room_id, expect=403)


def test_kick_waits_until_the_target_is_known(start_federated: Any, start_peer: Any, quick_retries: None) -> None:
    hearth, peer = start_federated(), start_peer()
    alice, room = hearth.register("alice"), make_room(peer)
    levels = {"users": {room.creator: 100, alice.user_id: 100}}
    room.send("m.room.power_levels", levels, "")
    told = hold_state(room)
    join(alice, room)
    with ThreadPoolExecutor() as threads:
        kick = threads.submit(alice.another_device().kick, room.room_id, room.user("bob"))
        alice.send(room.room_id, "meanwhile")
        told.set()
        kick.result()
    assert room.user("bob") not in members(alice, room)


def test_state_that_forbids_what_was_done_meanwhile_undoes_it(
    start_federated: Any, start_peer: Any, quick_retries: None
) -> None:
    hearth, peer = start_federated(), start_peer()
    alice, room = hearth.register("alice"), make_room(peer)
    told = hold_state(room)
    joined = room.state[(MEMBER, room.user("bob"))]
    room.send(MEMBER, {"membership": "ban"}, room.user("bob"))
    join(alice, room)
    # Bob is banned, which this server can't know yet: he speaks with the authority of his join.
    state = {**room.state, (MEMBER, room.user("bob")): joined}
    tips = list(room.tips)
    said = room.build("m.room.message", {"body": "still here"}, None, room.user("bob"), prev=tips, state=state)
    alice.sync()
    peer.put(hearth, f"{V1}/send/1", transaction(peer, said)).raise_for_status()
    assert [event["event_id"] for event in timeline(alice.sync(timeout=60_000), room.room_id)] == [said.event_id]
    told.set()
    assert room.user("bob") not in members(alice, room)
    alice.get("/rooms/{}/event/{}", at=[room.room_id, said.event_id], expect=404)


def transaction(peer: Any, *pdus: Any) -> dict[str, Any]:
    return {"origin": peer.server_name, "origin_server_ts": 1, "pdus": [pdu.json for pdu in pdus]}


def test_devices_of_those_who_become_known_are_news(start_federated: Any, start_peer: Any, quick_retries: None) -> None:
    hearth, peer = start_federated(), start_peer()
    alice, room = hearth.register("alice"), make_room(peer)
    room.send("m.room.encryption", {"algorithm": "m.megolm.v1.aes-sha2"}, "")
    told = hold_state(room)
    join(alice, room)
    alice.sync()
    told.set()
    known = {room.user("bob"), room.user("carol")}
    changed = until_synced(alice, lambda sync: sync.get("device_lists", {}).get("changed"))
    assert known <= set(changed)


def test_those_whose_members_are_unknown_type_and_read(
    start_federated: Any, start_peer: Any, quick_retries: None
) -> None:
    hearth, peer = start_federated("hearth", {"presence": {"enabled": True}}), start_peer()
    alice, room = hearth.register("alice"), make_room(peer)
    told = hold_state(room)
    join(alice, room)
    event_id = alice.send(room.room_id, "read this")
    bob = room.user("bob")
    typing = {"room_id": room.room_id, "user_id": bob, "typing": True}
    receipt = {room.room_id: {"m.read": {bob: {"event_ids": [event_id], "data": {"ts": 1}}}}}
    present = {"push": [{"user_id": bob, "presence": "online", "last_active_ago": 1, "currently_active": True}]}
    edus = [
        {"edu_type": type_, "content": content}
        for type_, content in (("m.typing", typing), ("m.receipt", receipt), ("m.presence", present))
    ]
    peer.put(hearth, f"{V1}/send/1", {**transaction(peer), "edus": edus}).raise_for_status()
    answer = alice.sync(since=None)
    shown = {event["type"]: event["content"] for event in answer["rooms"]["join"][room.room_id]["ephemeral"]["events"]}
    assert shown["m.typing"] == {"user_ids": [bob]}
    assert shown["m.receipt"] == {event_id: {"m.read": {bob: {"ts": 1}}}}
    told.set()
    assert bob in members(alice, room)
    assert alice.get("/presence/{}/status", at=[bob])["presence"] == "online"


def test_server_that_does_not_tell_what_comes_before_the_join_is_left_for_the_next(
    start_federated: Any, start_peer: Any
) -> None:
    """The join itself is in order: only what it follows can't be had."""
    hearth, peer, bad = start_federated(), start_peer(), start_peer()
    alice, dave, room = hearth.register("alice"), hearth.register("dave"), make_room(peer)
    told = hold_state(room)
    join(alice, room)

    def make_join(received: Received) -> Any:
        template = room.template(path_ids(received)[1], "join")
        return {**template, "event": {**template["event"], "prev_events": ["$" + "a" * 43]}}

    def send_join(received: Received) -> Any:
        state = [room.events[event_id] for event_id in room.state.values()]
        chain = room.auth_chain(room.state.values())
        return {"state": [each.json for each in state], "auth_chain": [each.json for each in chain]}

    bad.answer("GET", f"{V1}/make_join/", make_join)
    bad.answer("PUT", f"{V2}/send_join/", send_join)
    where: dict[str, Any] = {"at": [room.room_id], "query": {"via": [bad.server_name]}}
    dave.post("/join/{}", {}, **where)
    assert len(bad.received(f"{V2}/send_join/")) == 1
    assert dave.user_id in {user_id for type_, user_id in room.state if type_ == MEMBER}
    peer.answer("GET", f"{V1}/make_join/", DOWN)
    assert hearth.register("erin").post("/join/{}", {}, expect=502, **where)["errcode"] == "M_UNKNOWN"
    told.set()


def test_policy_server_is_asked_while_the_members_are_unknown(
    start_federated: Any, start_peer: Any, quick_retries: None
) -> None:
    """That it is in the room is known only from what the resident server said of the servers there."""
    hearth, peer, guard = start_federated(), start_peer(), start_peer()
    alice, room = hearth.register("alice"), make_room(peer)
    key = SigningKey("policy_server", bytes(range(32)))
    room.send(MEMBER, {"membership": "join"}, *[f"@guard:{guard.server_name}"] * 2, key=guard.key)
    content = {"via": guard.server_name, "public_keys": {"ed25519": key.verify_key.to_base64()}}
    room.send("m.room.policy", content, "")
    told = hold_state(room)

    def with_servers(received: Received) -> Any:
        return {**room.on_send_join(received), "servers_in_room": [peer.server_name, guard.server_name]}

    peer.answer("PUT", f"{V2}/send_join/", with_servers)
    guard.answer("POST", "/_matrix/policy/v1/sign", {"errcode": "M_FORBIDDEN", "error": "Spam"}, status=400)
    join(alice, room)
    assert is_partial(hearth, room)
    path = f"/rooms/{room.room_id}/send/m.room.message/1"
    assert alice.put(path, {"msgtype": "m.text", "body": "x"}, expect=400)["error"] == "Spam"
    said = room.say("buy pills")
    peer.put(hearth, f"{V1}/send/1", transaction(peer, said)).raise_for_status()
    until_equal(alice, lambda: len(guard.received("/_matrix/policy/v1/sign")), 2)
    told.set()
    assert room.user("bob") in members(alice, room)
    assert said.event_id not in {event["event_id"] for event in timeline(alice.sync(), room.room_id)}
