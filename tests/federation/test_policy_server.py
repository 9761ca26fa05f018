"""A Hearth that is a room's policy server: what it recommends, to others and to itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from homeserver.matrix.pdu import parse_pdu
from homeserver.matrix.signing import KeyId, SigningKey, VerifyKey, sign_event, verify_event_signature
from tests.federation.peer_room import V1, PeerRoom, message, to_json
from tests.federation.quiet import Log, log

__all__ = ["log"]

SIGN = "/_matrix/policy/v1/sign"
KEYS = "/.well-known/matrix/policy_server"
KEY_ID = KeyId("ed25519:policy_server")

Open = Callable[..., PeerRoom]


@pytest.fixture
def open_room(start_federated: Any, start_peer: Any) -> Open:
    """A room guarded by the Hearth in which it is, with rules."""

    def open_room(peer: Any = None, **rules: Any) -> PeerRoom:
        hearth = start_federated(settings={"policy_server": {"enabled": True, **rules}})
        room = PeerRoom.open(hearth, peer or start_peer(), initial_state=[])
        policy = {"via": hearth.server_name, **room.alice.get(KEYS)}
        room.alice.set_state(room.room_id, "m.room.policy", policy)
        room.catch_up()
        return room

    return open_room


def ask(room: PeerRoom, event: Any) -> Any:
    return room.peer.post(room.hearth, SIGN, to_json(event))


def refusal(room: PeerRoom, event: Any) -> tuple[int, str]:
    answer = ask(room, event)
    return answer.status_code, answer.json()["errcode"]


def test_event_is_signed_with_the_key_that_the_room_names(open_room: Open, log: Log) -> None:
    room = open_room()
    pdu = room.build("m.room.message", message("good"))
    answer = ask(room, pdu).json()
    assert {server: list(keys) for server, keys in answer.items()} == {room.hearth.server_name: [KEY_ID]}
    named = room.alice.get_state(room.room_id, "m.room.policy")["public_keys"]["ed25519"]
    json = {**to_json(pdu), "signatures": {**to_json(pdu)["signatures"], **answer}}
    verify_event_signature(json, room.version, room.hearth.server_name, VerifyKey.from_base64(KEY_ID, named))
    room.send(json)
    room.wait_for_event(pdu.event_id)
    published = room.hearth.ask("GET", "/_matrix/key/v2/server").json()["verify_keys"]
    assert named not in [each["key"] for each in published.values()]
    assert log.faults() == []


def test_own_events_and_those_of_servers_that_do_not_ask_are_judged_too(open_room: Open, log: Log) -> None:
    room = open_room(denied_event_types=["m.sticker", "org.example.*"], max_mentions=2)
    good = room.build("m.room.message", message("good"), advance=False)
    many = {**message("hello"), "m.mentions": {"user_ids": ["@a:x", "@b:x"], "room": True}}
    bad = room.build("m.room.message", many, advance=False)
    room.send(bad, good)
    room.wait_for_event(good.event_id)
    room.wait_until_idle()
    assert not room.sees(bad.event_id)
    event_id = room.alice.send(room.room_id, "mine")
    found = room.peer.get(room.hearth, f"{V1}/event/{event_id}").json()["pdus"][0]["signatures"]
    assert KEY_ID in found[room.hearth.server_name]
    error = room.alice.put("/rooms/{}/send/m.sticker/1", {}, at=[room.room_id], expect=400)
    assert error == {"errcode": "M_FORBIDDEN", "error": "Events of type m.sticker are not wanted here"}
    room.alice.put("/rooms/{}/send/m.room.message/2", many, at=[room.room_id], expect=400)
    assert log.faults() == []


def test_what_the_rules_forbid_is_refused(open_room: Open, log: Log) -> None:
    room = open_room(denied_event_types=["m.sticker", "org.example.*"], max_mentions=2)
    mentions = {"user_ids": ["@a:x", "@a:x", "@b:x"]}
    assert ask(room, room.build("m.room.message", {"m.mentions": mentions})).status_code == 200
    assert ask(room, room.build("org.example", {})).status_code == 200
    for type_, content in (
        ("m.sticker", {}),
        ("org.example.spam", {}),
        ("m.room.message", {"m.mentions": {**mentions, "room": True}}),
        ("m.room.message", {"m.mentions": {"user_ids": ["@a:x", "@b:x", "@c:x"]}}),
    ):
        assert refusal(room, room.build(type_, content)) == (400, "M_FORBIDDEN")
    assert refusal(room, room.build("m.room.policy", {}, state_key="")) == (400, "M_FORBIDDEN")
    assert ask(room, room.build("m.room.policy", {}, state_key="x")).status_code == 200
    assert log.faults() == []


def test_server_that_is_denied_may_only_leave(open_room: Open, start_peer: Any) -> None:
    peer = start_peer()
    room = open_room(peer, denied_servers=[peer.server_name.upper()])
    assert refusal(room, room.build("m.room.message", message("spam"))) == (400, "M_FORBIDDEN")
    said = {"membership": "leave", "reason": "spam"}
    assert refusal(room, room.build("m.room.member", said, state_key=room.bob)) == (400, "M_FORBIDDEN")
    assert ask(room, room.build("m.room.member", {"membership": "leave"}, state_key=room.bob)).status_code == 200


def test_event_that_is_not_what_it_says_is_not_signed(open_room: Open, log: Log) -> None:
    room = open_room()
    pdu = to_json(room.build("m.room.message", message("good")))
    forged = sign_event({**pdu, "signatures": {}}, room.version, room.peer.server_name, SigningKey("peer", b"x" * 32))
    assert refusal(room, forged) == (400, "M_FORBIDDEN")
    assert refusal(room, {**pdu, "content": message("bad")}) == (400, "M_FORBIDDEN")
    assert refusal(room, {**pdu, "signatures": {}}) == (400, "M_FORBIDDEN")
    assert refusal(room, {**pdu, "depth": "deep"}) == (400, "M_BAD_JSON")
    assert refusal(room, {**pdu, "room_id": 5}) == (400, "M_BAD_JSON")
    assert refusal(room, {**pdu, "content": {"body": "x" * 70_000}}) == (400, "M_BAD_JSON")
    assert refusal(room, {}) == (400, "M_BAD_JSON")
    assert refusal(room, {**pdu, "room_id": "!unknown:example.org"}) == (404, "M_NOT_FOUND")
    parse_pdu(dict(pdu), room.version)  # it was right before
    assert log.faults() == []


def test_server_that_is_shut_out_gets_no_signature(open_room: Open) -> None:
    room = open_room()
    pdu = room.build("m.room.message", message("good"))
    acl = {"allow": ["*.example"], "allow_ip_literals": False}
    room.alice.set_state(room.room_id, "m.room.server_acl", acl)
    assert refusal(room, pdu) == (403, "M_FORBIDDEN")


def test_only_rooms_that_are_named_are_guarded(open_room: Open) -> None:
    room = open_room(rooms=["!another:example.org"])
    assert refusal(room, room.build("m.room.message", message("x"))) == (404, "M_NOT_FOUND")
    room.alice.send(room.room_id, "x", expect=502)


def test_server_is_none_unless_it_is_told_to(start_federated: Any, start_peer: Any) -> None:
    room = PeerRoom.open(start_federated(), start_peer())
    assert refusal(room, room.build("m.room.message", message("x"))) == (404, "M_UNRECOGNIZED")
    room.alice.get(KEYS, expect=404)
