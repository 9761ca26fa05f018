"""Joining rooms of another server: what users of both then have."""

from __future__ import annotations

from typing import Any

import pytest

from homeserver.matrix.versions import ROOM_VERSIONS
from tests.federation.resident import MEMBER, V1, V2, PeerRoom
from tests.kit.client import Client, timeline
from tests.kit.federation import Answer, Received


def join(client: Client, room: PeerRoom, **about: Any) -> Any:
    return client.post("/join/{}", {}, at=[room.room_id], query={"via": [room.peer.server_name]}, **about)


@pytest.mark.parametrize("version", ROOM_VERSIONS)
def test_room_of_every_version_is_joined_and_shown(start_federated: Any, start_peer: Any, version: str) -> None:
    hearth, peer = start_federated(), start_peer()
    alice, room = hearth.register("alice"), PeerRoom.create(peer, version).serve()
    room.join("bob")
    assert join(alice, room) == {"room_id": room.room_id}
    sync = alice.sync()
    state = alice.get("/rooms/{}/state", at=[room.room_id])
    assert {event["event_id"] for event in state} == set(room.state.values())
    assert timeline(sync, room.room_id)[-1]["state_key"] == alice.user_id
    members = alice.get("/rooms/{}/joined_members", at=[room.room_id])["joined"]
    assert set(members) == {room.creator, room.user("bob"), alice.user_id}


@pytest.mark.parametrize("version", ["1", "2"])
@pytest.mark.parametrize("hashes", [{}, {"md5": "x"}], ids=["none", "another"])
def test_template_whose_references_lack_hashes_is_taken(
    start_federated: Any, start_peer: Any, version: str, hashes: dict[str, str]
) -> None:
    hearth, peer = start_federated(), start_peer()
    alice, room = hearth.register("alice"), PeerRoom.create(peer, version).serve()

    def make(_: Received) -> Any:
        template = room.template(alice.user_id, "join")
        for name in ("prev_events", "auth_events"):
            template["event"][name] = [[event_id, hashes] for event_id, _ in template["event"][name]]
        return template

    peer.answer("GET", f"{V1}/make_join/", make)
    assert join(alice, room) == {"room_id": room.room_id}
    assert room.room_id in alice.sync()["rooms"]["join"]
    member = room.events[room.state[(MEMBER, alice.user_id)]]
    assert set(member.prev_events) and all(event_id in room.events for event_id in member.auth_events)


def test_messages_are_sent_on_the_joined_state(start_federated: Any, start_peer: Any) -> None:
    hearth, peer = start_federated(), start_peer()
    alice, room = hearth.register("alice"), PeerRoom.create(peer).serve()
    join(alice, room)
    event_id = alice.send(room.room_id, "hello")
    assert timeline(alice.sync(), room.room_id)[-1]["event_id"] == event_id


def test_old_server_without_the_second_version_of_send_join(start_federated: Any, start_peer: Any) -> None:
    hearth, peer = start_federated(), start_peer()
    alice, room = hearth.register("alice"), PeerRoom.create(peer).serve()
    peer.answer("PUT", f"{V2}/send_join/", {"errcode": "M_UNRECOGNIZED", "error": "?"}, status=404)
    join(alice, room)
    assert len(peer.received(f"{V1}/send_join/")) == 1
    assert alice.get_state(room.room_id, "m.room.name") == {"name": "Peer's room"}


def test_second_server_helps_where_the_first_is_down_or_lies(start_federated: Any, start_peer: Any) -> None:
    hearth, dead, lying, peer = start_federated(), start_peer(), start_peer(), start_peer()
    alice, room = hearth.register("alice"), PeerRoom.create(peer).serve()
    dead.stop()
    lying.answer("GET", f"{V1}/make_join/", {"event": {}})
    via = [dead.server_name, lying.server_name, peer.server_name]
    alice.post("/join/{}", {}, at=[room.room_id], query={"via": via})
    assert alice.get("/joined_rooms") == {"joined_rooms": [room.room_id]}


def test_restricted_join_bears_the_signature_of_who_vouches(start_federated: Any, start_peer: Any) -> None:
    hearth, peer = start_federated(), start_peer()
    alice, room = hearth.register("alice"), PeerRoom.create(peer, join_rule="restricted").serve()
    room.vouches = True
    join(alice, room)
    member = alice.get_state(room.room_id, MEMBER, alice.user_id)
    assert member["join_authorised_via_users_server"] == room.creator
    assert room.peer.server_name in room.events[room.state[(MEMBER, alice.user_id)]].json["signatures"]


def test_restricted_join_without_that_signature_is_refused(start_federated: Any, start_peer: Any) -> None:
    hearth, peer = start_federated(), start_peer()
    alice, room = hearth.register("alice"), PeerRoom.create(peer, join_rule="restricted").serve()
    room.vouches = True

    def forgetful(received: Any) -> Any:
        answer = room.on_send_join(received)
        del answer["event"]
        return answer

    peer.answer("PUT", f"{V2}/send_join/", forgetful)
    assert "signature" in join(alice, room, expect=502)["error"]


def test_two_users_who_join_at_once_are_both_in(start_federated: Any, start_peer: Any) -> None:
    from concurrent.futures import ThreadPoolExecutor

    hearth, peer = start_federated(), start_peer()
    alice, bob, room = hearth.register("alice"), hearth.register("bob"), PeerRoom.create(peer).serve()
    with ThreadPoolExecutor() as threads:
        list(threads.map(lambda client: join(client, room), [alice, bob]))
    for client in (alice, bob):
        members = client.get("/rooms/{}/joined_members", at=[room.room_id])["joined"]
        assert {alice.user_id, bob.user_id} <= set(members)


def test_who_asks_a_server_that_hangs_keeps_nobody_else_out(
    start_federated: Any, start_peer: Any, monkeypatch: Any
) -> None:
    from concurrent.futures import ThreadPoolExecutor
    from threading import Event

    monkeypatch.setattr("federation.joining.joining.OTHERS_WAIT_MS", 100)
    hearth, peer, hanging = start_federated(), start_peer(), start_peer()
    alice, bob, room = hearth.register("alice"), hearth.register("bob"), PeerRoom.create(peer).serve()
    asked, over = Event(), Event()

    def hang(received: Received) -> Any:
        asked.set()
        assert over.wait(60)
        return Answer({"errcode": "M_NOT_FOUND", "error": "not here"}, 404)

    hanging.answer("GET", f"{V1}/make_join/", hang)
    with ThreadPoolExecutor() as threads:
        query = {"via": [hanging.server_name]}
        slow = threads.submit(alice.post, "/join/{}", {}, at=[room.room_id], query=query)
        assert asked.wait(60)
        join(bob, room)
        said = room.say("welcome")
        body = {"origin": peer.server_name, "origin_server_ts": 1, "pdus": [said.json]}
        assert peer.put(hearth, f"{V1}/send/1", body).json() == {"pdus": {said.event_id: {}}}
        assert bob.get("/rooms/{}/event/{}", at=[room.room_id, said.event_id])["content"]["body"] == "welcome"
        over.set()
        slow.result()
    assert {alice.user_id, bob.user_id} <= set(bob.get("/rooms/{}/joined_members", at=[room.room_id])["joined"])


def test_room_is_joined_again_after_all_have_left(start_federated: Any, start_peer: Any) -> None:
    hearth, peer = start_federated(), start_peer()
    alice, room = hearth.register("alice"), PeerRoom.create(peer).serve()
    join(alice, room)
    alice.leave(room.room_id)
    room.send(MEMBER, {"membership": "leave"}, alice.user_id)
    room.send("m.room.name", {"name": "Renamed meanwhile"}, "")
    room.join("carol")
    join(alice, room)
    assert alice.get_state(room.room_id, "m.room.name") == {"name": "Renamed meanwhile"}
    members = alice.get("/rooms/{}/joined_members", at=[room.room_id])["joined"]
    assert set(members) == {room.creator, room.user("carol"), alice.user_id}


def test_alias_of_another_server_leads_into_its_room(start_federated: Any, start_peer: Any) -> None:
    hearth, peer = start_federated(), start_peer()
    alice, room = hearth.register("alice"), PeerRoom.create(peer).serve()
    peer.answer("GET", f"{V1}/query/directory", {"room_id": room.room_id, "servers": [peer.server_name]})
    alice.join(f"#somewhere:{peer.server_name}")
    assert alice.get("/joined_rooms") == {"joined_rooms": [room.room_id]}
