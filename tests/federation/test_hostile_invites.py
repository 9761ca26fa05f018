"""What a hostile server can make of invites, knocks and other member events that it hands over by itself."""

from __future__ import annotations

import time
from typing import Any

import pytest

from homeserver.matrix.build import build_pdu
from homeserver.matrix.ids import EventId, UserId
from homeserver.matrix.pdu import Pdu, parse_pdu
from homeserver.matrix.versions import room_version
from tests.federation.peer_room import V1, PeerRoom
from tests.federation.quiet import Log, log
from tests.federation.resident import PeerRoom as ResidentRoom
from tests.federation.visitor import Visitor

__all__ = ["log"]

ANYBODY_INVITES = {"invite": 0}


@pytest.fixture
def room(start_federated: Any, start_peer: Any) -> PeerRoom:
    return PeerRoom.open(start_federated(), start_peer(), power_level_content_override=ANYBODY_INVITES)


def invite(room: PeerRoom, version: str, target: str, **about: Any) -> Pdu:
    """An invite by bob, in the format of the version, behind the room's events."""
    rules = room_version(version)
    keys = [("m.room.create", ""), ("m.room.power_levels", ""), ("m.room.join_rules", ""), ("m.room.member", room.bob)]
    fields: dict[str, Any] = {
        "prev_events": [EventId(each) for each in room.tips],
        "auth_events": [room.state[key] for key in keys],
        "depth": room.depth + 1,
        "origin_server_ts": int(time.time() * 1000),
        "signing_key": room.peer.key,
        "server_name": room.peer.server_name,
        "event_id": EventId(f"$forged:{room.peer.server_name}") if rules.event_id_on_wire else None,
        "hashes_of": (lambda _: "aaaa") if rules.references_carry_hashes else None,
        **about,
    }
    return build_pdu(
        rules,
        type="m.room.member",
        sender=UserId(room.bob),
        room_id=room.room_id,
        content={"membership": "invite"},
        state_key=target,
        **fields,
    )


def put_invite(room: PeerRoom, pdu: Pdu, version: str, **about: Any) -> Any:
    visitor = Visitor(room.peer, room.hearth)
    body = {"room_version": version, "event": pdu.json, "invite_room_state": []}
    return visitor.put("/v2/invite/{}/{}", body, at=[pdu.room_id, pdu.event_id], **about)


@pytest.mark.parametrize("version", ["1", "6", "10"])
def test_invite_can_not_bring_the_rules_of_another_version_into_a_room(room: PeerRoom, log: Log, version: str) -> None:
    carol = room.hearth.register("carol")
    pdu = invite(room, version, carol.user_id)
    put_invite(room, pdu, version, expect="M_INVALID_PARAM")
    assert room.head().membership(carol.user_id) is None
    room.hearth.restart()
    room.alice.base_url = room.hearth.url
    assert room.sees(room.alice.send(room.room_id, "still here"))
    assert log.faults() == []


def test_older_endpoint_may_not_know_that_a_room_is_of_version_2(start_federated: Any, start_peer: Any) -> None:
    room = PeerRoom.open(start_federated(), start_peer(), "2", power_level_content_override=ANYBODY_INVITES)
    carol = room.hearth.register("carol")
    pdu = invite(room, "2", carol.user_id)
    Visitor(room.peer, room.hearth).put("/v1/invite/{}/{}", pdu.json, at=[pdu.room_id, pdu.event_id])
    room.wait_for_member(carol.user_id, "invite")


@pytest.mark.parametrize("version", ["1", "6", "10"])
def test_room_can_not_change_its_version_between_two_joins(
    start_federated: Any, start_peer: Any, log: Log, version: str
) -> None:
    hearth, peer = start_federated(), start_peer()
    first, second = ResidentRoom.create(peer, "11"), ResidentRoom.create(peer, version)
    assert first.room_id == second.room_id
    alice = hearth.register("alice")
    first.serve()
    about: Any = {"at": [first.room_id], "query": {"via": [peer.server_name]}}
    alice.post("/join/{}", {}, **about)
    alice.leave(first.room_id)
    second.serve()
    alice.post("/join/{}", {}, expect=502, **about)
    hearth.restart()
    alice.base_url = hearth.url
    read_everything(alice)
    first.serve()
    alice.post("/join/{}", {}, **about)
    assert log.faults() == []


SLIDING = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
STRANGE = [
    {},
    {"type": "m.room.name"},
    {"type": 5, "state_key": "", "sender": "@a:b", "content": {}},
    {"type": "m.room.name", "state_key": {}, "sender": "@a:b", "content": {}},
    {"type": "m.room.name", "state_key": "", "sender": None, "content": {}},
    {"type": "m.room.name", "state_key": "", "sender": "@a:b", "content": []},
    {"type": "m.room.name", "state_key": "", "sender": "@a:b", "content": {"name": {}}},
    {"type": "m.room.avatar", "state_key": "", "sender": "@a:b", "content": {"url": 5}},
    {"type": "m.room.create", "state_key": "", "sender": "nobody", "content": {"type": [], "room_version": 5}},
    {"type": "m.room.join_rules", "state_key": "", "sender": "\0", "content": {"join_rule": {}, "allow": 5}},
    {"type": "m.room.encryption", "state_key": "", "sender": "@a:b", "content": {"algorithm": 7}},
    {"type": "m.room.canonical_alias", "state_key": "", "sender": "@a:b", "content": {"alias": [[]]}},
    {"type": "m.room.member", "state_key": "@a:b", "sender": "@a:b", "content": {"membership": [], "displayname": 5}},
    {"type": "\0", "state_key": "\0", "sender": "\0", "content": {"\0": "\0"}},
    {"type": "m.room.topic", "state_key": "", "sender": "@a:b", "content": {"topic": 10**30, "x": 1.5}},
    {"type": "org.example.large", "state_key": "", "sender": "@a:b", "content": {"x": "y" * 300_000}},
]


def read_everything(client: Any) -> dict[str, Any]:
    """What a client reads when it starts: all of it has to work. Returns the answer of /sync."""
    for path in ("/joined_rooms", "/notifications", "/initialSync"):
        assert client.send_raw("GET", "/_matrix/client/v3" + path).status_code < 500
    body = {"lists": {"a": {"ranges": [[0, 50]], "timeline_limit": 5, "required_state": [["*", "*"]]}}}
    answer = client.send_raw("POST", SLIDING, body, query={"timeout": 0})
    assert answer.status_code == 200, answer.text
    synced: dict[str, Any] = client.get("/sync")
    return synced


def test_room_that_describes_itself_strangely_to_who_knocks(start_federated: Any, start_peer: Any, log: Log) -> None:
    hearth, peer = start_federated(), start_peer()
    alice, room = hearth.register("alice"), ResidentRoom.create(peer, join_rule="knock").serve()

    def on_knock(received: Any) -> Any:
        room.on_send_knock(received)
        return {"knock_room_state": [*STRANGE, 5, None, []]}

    peer.answer("PUT", f"{V1}/send_knock/", on_knock)
    alice.post("/knock/{}", {}, at=[room.room_id], query={"via": [peer.server_name]})
    shown = read_everything(alice)["rooms"]["knock"][room.room_id]["knock_state"]["events"]
    assert all(isinstance(each[name], str) for each in shown for name in ("type", "state_key", "sender"))
    assert all(isinstance(each["content"], dict) for each in shown)
    assert len(str(shown)) < 200_000
    assert log.faults() == []


def test_room_that_describes_itself_strangely_to_who_is_invited(
    start_federated: Any, start_peer: Any, log: Log
) -> None:
    hearth, peer = start_federated(), start_peer()
    alice, room = hearth.register("alice"), ResidentRoom.create(peer)
    pdu = room.send("m.room.member", {"membership": "invite"}, alice.user_id)
    body = {"room_version": "11", "event": pdu.json, "invite_room_state": [*STRANGE, 5, None, []]}
    Visitor(peer, hearth).put("/v2/invite/{}/{}", body, at=[room.room_id, pdu.event_id])
    shown = read_everything(alice)["rooms"]["invite"][room.room_id]["invite_state"]["events"]
    assert all(isinstance(each[name], str) for each in shown for name in ("type", "state_key", "sender"))
    assert len(str(shown)) < 200_000
    assert log.faults() == []


def test_users_of_others_are_not_invited_in_anybodys_name(room: PeerRoom, start_peer: Any, log: Log) -> None:
    """A third-party invite needs no signature of its sender: it must not be taken from another server for that."""
    carol = room.hearth.register("carol")
    forger = start_peer()
    signed = {"mxid": carol.user_id, "token": "t", "signatures": {"x": {"ed25519:0": "AAAA"}}}
    content = {"membership": "invite", "third_party_invite": {"display_name": "x", "signed": signed}}
    pdu = room.build("m.room.member", content, state_key=carol.user_id, advance=False)
    event = {**pdu.json, "room_id": "!other:x"}
    body = {"room_version": "11", "event": event, "invite_room_state": []}
    forged = parse_pdu(dict(event), room.version)
    Visitor(forger, room.hearth).put("/v2/invite/{}/{}", body, at=["!other:x", forged.event_id], expect=400)
    unsigned = {**pdu.json, "signatures": {}}
    answer = forger.put(room.hearth, f"{V1}/send/1", {"pdus": [unsigned]})
    assert answer.status_code == 200
    room.wait_until_idle()
    assert room.head().membership(carol.user_id) is None
    assert log.faults() == []
