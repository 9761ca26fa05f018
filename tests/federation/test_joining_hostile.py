"""Joins through servers that lie: none of it gets in, and the user is told which server it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from homeserver.matrix.signing import SigningKey, sign_event
from tests.federation.resident import MEMBER, V1, V2, PeerRoom
from tests.kit.client import Client
from tests.kit.federation import Answer, Received
from tests.kit.reactor import run_in_reactor

OTHER_KEY = SigningKey("peer", bytes(reversed(range(32))))


def join(client: Client, room: PeerRoom, **about: Any) -> Any:
    return client.post("/join/{}", {}, at=[room.room_id], query={"via": [room.peer.server_name]}, **about)


Spoil = Callable[[PeerRoom, dict[str, Any]], Any]


def without_create(room: PeerRoom, answer: dict[str, Any]) -> Any:
    return {**answer, "state": [event for event in answer["state"] if event["type"] != "m.room.create"]}


def with_unsigned_create(room: PeerRoom, answer: dict[str, Any]) -> Any:
    state = [{**event, "signatures": {}} if event["type"] == "m.room.create" else event for event in answer["state"]]
    return {**answer, "state": state}


def with_forged_signature(room: PeerRoom, answer: dict[str, Any]) -> Any:
    def forged(event: dict[str, Any]) -> dict[str, Any]:
        bare = {**event, "signatures": {}}
        return sign_event(bare, room.version, room.peer.server_name, OTHER_KEY)

    return {**answer, "state": [forged(event) for event in answer["state"]]}


def with_other_version(room: PeerRoom, answer: dict[str, Any]) -> Any:
    forged = room.build("m.room.create", {"room_version": "10"}, "", room.creator, prev=[])
    state = [forged.json if event["type"] == "m.room.create" else event for event in answer["state"]]
    return {**answer, "state": state}


def with_strange_create(room: PeerRoom, answer: dict[str, Any]) -> Any:
    forged = room.build("m.room.create", {"room_version": "11"}, "", room.creator, prev=list(room.tips))
    state = [forged.json if event["type"] == "m.room.create" else event for event in answer["state"]]
    return {**answer, "state": state}


def with_other_room(room: PeerRoom, answer: dict[str, Any]) -> Any:
    other = PeerRoom.create(room.peer, room.version.identifier)
    return {**answer, "state": [other.events[event_id].json for event_id in other.state.values()]}


def with_closed_door(room: PeerRoom, answer: dict[str, Any]) -> Any:
    closed = room.send("m.room.join_rules", {"join_rule": "invite"}, "")
    state = [closed.json if event["type"] == "m.room.join_rules" else event for event in answer["state"]]
    return {**answer, "state": state}


def with_ban(room: PeerRoom, answer: dict[str, Any]) -> Any:
    ban = room.send(MEMBER, {"membership": "ban"}, answer["event"]["state_key"])
    return {**answer, "state": [*answer["state"], ban.json]}


def with_two_creates(room: PeerRoom, answer: dict[str, Any]) -> Any:
    return {**answer, "state": [*answer["state"], *answer["state"]]}


def without_auth_events(room: PeerRoom, answer: dict[str, Any]) -> Any:
    def rest(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [event for event in events if event["type"] != "m.room.power_levels"]

    return {**answer, "auth_chain": rest(answer["auth_chain"]), "state": rest(answer["state"])}


def with_another_event(room: PeerRoom, answer: dict[str, Any]) -> Any:
    return {**answer, "event": room.events[room.state[(MEMBER, room.creator)]].json}


def with_changed_event(room: PeerRoom, answer: dict[str, Any]) -> Any:
    content = {**answer["event"]["content"], "displayname": "Somebody else"}
    return {**answer, "event": {**answer["event"], "content": content}}


def with_words_for_state(room: PeerRoom, answer: dict[str, Any]) -> Any:
    return {**answer, "state": "all of it"}


def that_is_no_object(room: PeerRoom, answer: dict[str, Any]) -> Any:
    return [1, 2, 3]


def with_numbers_for_events(room: PeerRoom, answer: dict[str, Any]) -> Any:
    return {**answer, "auth_chain": [1, 2]}


def that_is_no_json(room: PeerRoom, answer: dict[str, Any]) -> Any:
    return Answer(b"<html>")


@pytest.mark.parametrize(
    "spoil",
    [
        without_create,
        with_unsigned_create,
        with_forged_signature,
        with_other_version,
        with_other_room,
        with_closed_door,
        with_ban,
        with_two_creates,
        without_auth_events,
        with_strange_create,
        with_another_event,
        with_changed_event,
        with_words_for_state,
        that_is_no_object,
        with_numbers_for_events,
        that_is_no_json,
    ],
)
def test_answer_that_lies_lets_nobody_in(start_federated: Any, start_peer: Any, spoil: Spoil) -> None:
    hearth, peer = start_federated(), start_peer()
    alice, room = hearth.register("alice"), PeerRoom.create(peer).serve()
    peer.answer("PUT", f"{V2}/send_join/", lambda received: spoil(room, room.on_send_join(received)))
    error = join(alice, room, expect=502)
    assert peer.server_name in error["error"]
    assert alice.get("/joined_rooms") == {"joined_rooms": []}
    alice.get("/rooms/{}/state", at=[room.room_id], expect=403)


@pytest.mark.parametrize(
    "change",
    [
        {"room_id": "!other:example.org"},
        {"sender": "@eve:example.org"},
        {"state_key": "@eve:example.org"},
        {"type": "m.room.message"},
        {"content": {"membership": "leave"}},
        {"content": "join"},
        {"prev_events": []},
        {"prev_events": [["$a", {"sha256": "x"}]]},
        {"prev_events": ["$a"] * 1000},
        {"auth_events": "all"},
        {"depth": -1},
        {"depth": 2**70},
    ],
)
def test_template_that_is_not_what_was_asked_for_is_not_signed(
    start_federated: Any, start_peer: Any, change: dict[str, Any]
) -> None:
    hearth, peer = start_federated(), start_peer()
    alice, room = hearth.register("alice"), PeerRoom.create(peer).serve()

    def make(received: Received) -> Any:
        template = room.template(alice.user_id, "join")
        return {**template, "event": {**template["event"], **change}}

    peer.answer("GET", f"{V1}/make_join/", make)
    join(alice, room, expect=502)
    assert not peer.received(V2)


@pytest.mark.parametrize("version", ["99", "", 11, None])
def test_room_of_unknown_version_is_not_joined(start_federated: Any, start_peer: Any, version: Any) -> None:
    hearth, peer = start_federated(), start_peer()
    alice, room = hearth.register("alice"), PeerRoom.create(peer).serve()
    peer.answer("GET", f"{V1}/make_join/", {**room.template(alice.user_id, "join"), "room_version": version})
    join(alice, room, expect="M_UNSUPPORTED_ROOM_VERSION")


@pytest.mark.parametrize(
    ("status", "errcode", "told"),
    [
        (403, "M_FORBIDDEN", 403),
        (404, "M_NOT_FOUND", 404),
        (400, "M_INCOMPATIBLE_ROOM_VERSION", "M_INCOMPATIBLE_ROOM_VERSION"),
        (400, "M_UNABLE_TO_GRANT_JOIN", "M_UNABLE_TO_GRANT_JOIN"),
        (400, "M_INVALID_PARAM", 502),
        (401, "M_UNAUTHORIZED", 502),
        (401, "M_UNKNOWN_TOKEN", 502),
        (500, "M_UNKNOWN", 502),
    ],
)
def test_error_of_the_resident_is_told_as_far_as_it_concerns_the_user(
    start_federated: Any, start_peer: Any, status: int, errcode: str, told: int | str
) -> None:
    hearth, peer = start_federated(), start_peer()
    alice, room = hearth.register("alice"), PeerRoom.create(peer)
    peer.answer("GET", f"{V1}/make_join/", {"errcode": errcode, "error": "no"}, status=status)
    join(alice, room, expect=told)


def test_endless_answer_is_cut_off(start_federated: Any, start_peer: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("federation.joining.join.MAX_JOIN_BYTES", 200_000)
    hearth, peer = start_federated(), start_peer()
    alice, room = hearth.register("alice"), PeerRoom.create(peer).serve()

    def write(handler: Any) -> None:
        handler.send_response(200)
        handler.end_headers()
        for _ in range(100_000):
            handler.wfile.write(b'{"a":' * 1000)

    peer.answer_raw("PUT", f"{V2}/send_join/", write)
    join(alice, room, expect=502)


def test_no_server_to_ask_is_not_found(start_federated: Any) -> None:
    alice = start_federated().register("alice")
    alice.post("/join/{}", {}, at=["!" + "a" * 43], expect=404)


def test_state_that_its_own_auth_events_forbid_does_not_hold(start_federated: Any, start_peer: Any) -> None:
    hearth, peer = start_federated(), start_peer()
    alice, room = hearth.register("alice"), PeerRoom.create(peer).serve()
    mallory = room.join("mallory")
    forged = room.build("m.room.name", {"name": "Mallory's"}, "", mallory, prev=list(room.tips))

    def lie(received: Received) -> Any:
        answer = room.on_send_join(received)
        room.events[forged.event_id] = forged
        state = [forged.json if event["type"] == "m.room.name" else event for event in answer["state"]]
        return {**answer, "state": state}

    peer.answer("PUT", f"{V2}/send_join/", lie)
    join(alice, room)
    alice.get("/rooms/{}/state/m.room.name", at=[room.room_id], expect=404)
    head = run_in_reactor(lambda: hearth.running.services.core.heads.load(room.room_id))
    assert ("m.room.name", "") not in head.state
