"""Joins through servers that lie about what comes later, and rooms whose graphs are as large as they can be."""

from __future__ import annotations

from typing import Any

import pytest

from homeserver.matrix.ids import EventId, UserId
from homeserver.matrix.versions import room_version
from tests.federation import peer_room
from tests.federation.quiet import Log, log
from tests.federation.resident import MEMBER, V1, V2, PeerRoom
from tests.federation.test_joining_partial import is_partial, join, make_room, members, quick_retries
from tests.kit.federation import Received
from tests.kit.reactor import run_in_reactor
from tests.kit.waiting import until

__all__ = ["log", "quick_retries"]

LONG = 10_000


# -- partial state -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "servers",
    [[], "all", [None, 5, "", "no name!"], ["nobody.invalid", "elsewhere.invalid"], ["x.invalid"] * 50_000],
    ids=["none", "text", "garbage", "others", "many"],
)
def test_servers_that_are_not_in_the_room_hold_up_nothing(
    start_federated: Any, start_peer: Any, quick_retries: None, log: Log, servers: Any
) -> None:
    """The state is had from the server that let us in, and tells who is there."""
    hearth, room = start_federated(), make_room(start_peer())
    room.peer.answer("PUT", f"{V2}/send_join/", lambda got: {**room.on_send_join(got), "servers_in_room": servers})
    alice = hearth.register("alice")
    join(alice, room)
    assert members(alice, room) == {room.creator, room.user("bob"), room.user("carol"), alice.user_id}
    assert not is_partial(hearth, room)
    assert log.faults() == []


def without_create(room: PeerRoom, ids: list[str]) -> list[str]:
    return [each for each in ids if room.events[EventId(each)].type != "m.room.create"]


def with_a_key_twice(room: PeerRoom, ids: list[str]) -> list[str]:
    return [*ids, room.send("m.room.name", {"name": "Once more"}, "").event_id]


def with_unknown_events(room: PeerRoom, ids: list[str]) -> list[str]:
    return [*ids, "$" + "A" * 43]


def with_no_state(room: PeerRoom, ids: list[str]) -> list[str]:
    return [*ids, room.say("hello").event_id]


def with_nothing(room: PeerRoom, ids: list[str]) -> list[str]:
    return []


@pytest.mark.parametrize("spoil", [without_create, with_a_key_twice, with_unknown_events, with_no_state, with_nothing])
def test_state_that_can_not_be_does_not_end_the_wait(
    start_federated: Any, start_peer: Any, quick_retries: None, log: Log, spoil: Any
) -> None:
    """The room goes on without the members until the truth is told."""
    hearth, room = start_federated(), make_room(start_peer())
    true = room.on_state_ids
    asked: list[Received] = []

    def lie(received: Received) -> Any:
        asked.append(received)
        answer = true(received)
        return {**answer, "pdu_ids": spoil(room, answer["pdu_ids"])} if len(asked) < 3 else answer

    room.peer.answer("GET", f"{V1}/state_ids/", lie)
    alice = hearth.register("alice")
    join(alice, room)
    alice.send(room.room_id, "meanwhile")
    assert members(alice, room) == {room.creator, room.user("bob"), room.user("carol"), alice.user_id}
    assert len(asked) >= 3 or spoil in (with_unknown_events, with_no_state)
    assert log.faults() == []


def test_state_that_auth_rules_forbid_gives_no_power(
    start_federated: Any, start_peer: Any, quick_retries: None, log: Log
) -> None:
    """Bob makes himself an admin, and says that a member was banned; his own server tells it as the room's state."""
    hearth, room = start_federated(), make_room(start_peer())
    bob, carol = room.user("bob"), room.user("carol")
    levels = room.build("m.room.power_levels", {"users": {bob: 100}}, "", bob, prev=list(room.tips))
    ban = room.build(MEMBER, {"membership": "ban"}, carol, bob, prev=list(room.tips))
    forged = {levels.key: levels, ban.key: ban}
    room.events.update({pdu.event_id: pdu for pdu in forged.values()})
    true = room.on_state_ids

    def lie(received: Received) -> Any:
        answer = true(received)
        kept = [each for each in answer["pdu_ids"] if room.events[EventId(each)].key not in forged]
        return {**answer, "pdu_ids": [*kept, *(pdu.event_id for pdu in forged.values())]}

    room.peer.answer("GET", f"{V1}/state_ids/", lie)
    alice = hearth.register("alice")
    join(alice, room)
    until(alice, lambda: room.peer.received(f"{V1}/state_ids"))
    head = run_in_reactor(lambda: hearth.running.services.core.heads.load(room.room_id))
    assert head.membership(UserId(carol)) != "ban"
    assert head.state[levels.key] != levels.event_id
    assert log.faults() == []


# -- graphs --------------------------------------------------------------------------------------------------------------


def test_auth_events_in_a_circle_are_no_room(start_federated: Any, start_peer: Any, log: Log) -> None:
    """Possible where ids are made up: room version 1."""
    hearth, room = start_federated(), PeerRoom.create(start_peer(), "1").serve()
    first, second = EventId("$first:" + room.peer.server_name), EventId("$second:" + room.peer.server_name)

    def in_a_circle(event_id: EventId, other: EventId) -> Any:
        pdu = room.build("m.room.power_levels", {"users": {room.creator: 100}}, "", room.creator, prev=list(room.tips))
        auth = [[each, {"sha256": "aaaa"}] for each in [*pdu.auth_events, other]]
        return room.resign({**pdu.json, "event_id": event_id, "auth_events": auth})

    circle = [in_a_circle(first, second), in_a_circle(second, first)]

    def answer(received: Received) -> Any:
        given = room.on_send_join(received)
        state = [each for each in given["state"] if each["type"] != "m.room.power_levels"]
        return {**given, "state": [*state, circle[0]], "auth_chain": [*given["auth_chain"], *circle]}

    room.peer.answer("PUT", f"{V2}/send_join/", answer)
    alice = hearth.register("alice")
    response = alice.send_raw(
        "POST", f"/_matrix/client/v3/join/{room.room_id}", {}, query={"via": [room.peer.server_name]}
    )
    assert response.status_code in (200, 502)
    if response.ok:
        levels = alice.get_state(room.room_id, "m.room.power_levels", expect=404)
        assert levels["errcode"] == "M_NOT_FOUND"
    assert log.faults() == []


def test_auth_chain_of_ten_thousand_events_is_followed(start_federated: Any, start_peer: Any, log: Log) -> None:
    hearth, room = start_federated(), PeerRoom.create(start_peer(), "11").serve()
    for number in range(LONG):
        room.send("m.room.power_levels", {"users": {room.creator: 100}, "ban": number % 100}, "")
    alice = hearth.register("alice")
    join(alice, room)
    assert alice.get_state(room.room_id, "m.room.power_levels")["ban"] == (LONG - 1) % 100
    alice.send(room.room_id, "hello")
    assert log.faults() == []


# -- depths --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1", "11"])
def test_room_goes_on_behind_the_greatest_depth(start_federated: Any, start_peer: Any, log: Log, version: str) -> None:
    room = peer_room.PeerRoom.open(start_federated(), start_peer(), version)
    deepest = room_version(version).max_depth
    room.send(room.build("m.room.message", peer_room.message("deep"), depth=deepest))
    room.wait_for_event(room.tips[0])
    said = room.alice.send(room.room_id, "deeper")
    room.catch_up()
    assert room.head().depth == deepest
    last = room.build("m.room.message", peer_room.message("deepest"), depth=deepest)
    room.send(last)
    room.wait_for_event(last.event_id)
    texts = [each["content"].get("body") for each in room.alice.messages(room.room_id, limit=4)["chunk"]]
    assert texts[:3] == ["deepest", "deeper", "deep"]
    assert room.peer.get(room.hearth, f"{V1}/event/{said}").json()["pdus"][0]["depth"] == deepest
    missing = {"earliest_events": [], "latest_events": [last.event_id], "limit": 2, "min_depth": 2**53 - 1}
    found = room.peer.post(room.hearth, f"{V1}/get_missing_events/{room.room_id}", missing).json()["events"]
    assert len(found) == 2
    assert log.faults() == []


@pytest.mark.parametrize("version", ["1", "11"])
def test_invite_of_the_greatest_depth_is_refused_by_the_user(
    start_federated: Any, start_peer: Any, log: Log, version: str
) -> None:
    """Nobody takes the refusal, so the event for it is built here."""
    hearth, room = start_federated(), PeerRoom.create(start_peer(), version)
    alice = hearth.register("alice")
    about = room.build(MEMBER, {"membership": "invite"}, alice.user_id, room.creator, prev=list(room.tips))
    invite = room.resign({**about.json, "depth": room.version.max_depth})
    event_id = invite.get("event_id") or room.id_of(invite)
    body = {"room_version": version, "event": invite, "invite_room_state": []}
    assert room.peer.put(hearth, f"{V2}/invite/{room.room_id}/{event_id}", body).status_code == 200
    alice.leave(room.room_id)
    assert not alice.sync(since=None).get("rooms", {}).get("invite")
    assert log.faults() == []
