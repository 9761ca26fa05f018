"""Rooms that are joined with their members left out, and what becomes of them when the full state has come."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred

from homeserver.matrix.ids import ServerName
from homeserver.matrix.pdu import Pdu
from homeserver.rooms.ingest import Receipt
from homeserver.rooms.ingest_completion import Completion
from homeserver.rooms.writer import Draft
from homeserver.store.event_graph import load_state_after
from tests.rooms.harness import ALICE
from tests.rooms.remote_room import RemoteRoom
from tests.rooms.test_ingest import YAN, ZOE, IngestServer, open_room, server

__all__ = ["server"]
SERVERS = [ServerName("remote.example"), ServerName("other.example")]
EVE = "@eve:evil.example"


def enter_partially(server: IngestServer, room: RemoteRoom) -> Pdu:
    join = room.join(ALICE)
    state = [pdu for pdu in room.state_events(join) if pdu.type != "m.room.member"]
    chain = room.auth_chain([*state, join])
    server.wait(server.ingest.start_room(room.version, join, state, chain, partial_from=SERVERS))
    return join


def take(server: IngestServer, room: RemoteRoom, pdu: Pdu) -> Receipt:
    """The event, and what it names as auth events, as a receiver fetches it."""
    server.wait(server.ingest.store_outliers(room.version, room.auth_chain([pdu])))
    return server.receive(pdu)


def complete(server: IngestServer, room: RemoteRoom, join: Pdu) -> None:
    state = room.state_events(join)
    server.wait(Completion(server.ingest).complete_state(join.room_id, state, room.auth_chain(state)))


@pytest.mark.parametrize("version", ["10", "12"])
def test_room_is_usable_at_once_and_full_later(server: IngestServer, version: str) -> None:
    room = open_room(version)
    join = enter_partially(server, room)
    assert set(server.head(room).members) == {ALICE}
    said = room.say(YAN, "who am I?")
    assert take(server, room, said) is Receipt.ACCEPTED
    [sent] = server.wait(server.writer.write(join.room_id, lambda _: [Draft("m.room.message", ALICE, {"body": "hi"})]))
    room.events[sent.event_id] = sent.pdu
    room.states[sent.event_id] = room.state_before(sent.pdu.prev_events)
    topic = room.send("m.room.topic", ZOE, {"topic": "full"}, "", after=[sent.pdu])
    assert take(server, room, topic) is Receipt.ACCEPTED
    complete(server, room, join)
    for _ in range(2):
        head = server.head(room)
        assert dict(head.state) == room.states[topic.event_id]
        assert dict(head.members) == {ZOE: "join", YAN: "join", ALICE: "join"}
        assert head.extremities == (topic.event_id,)
        for pdu in (join, said, sent.pdu, topic):
            stored = server.wait(server.database.read(load_state_after, server.event(pdu)))
            assert stored == room.states[pdu.event_id]
        server.forget()
        assert server.partial.rooms == []
    after = room.say(YAN, after=[topic])
    assert take(server, room, after) is Receipt.ACCEPTED
    assert dict(server.head(room).state) == room.states[after.event_id]


def test_state_stays_partial_over_restarts_and_who_waits_is_told(server: IngestServer) -> None:
    room = open_room()
    join = enter_partially(server, room)
    server.forget()
    [partial] = server.partial.rooms
    assert (partial.room_id, partial.event_id, partial.servers) == (join.room_id, join.event_id, SERVERS)
    waiting = Deferred.fromCoroutine(server.partial.wait_full(join.room_id))
    assert not waiting.called
    complete(server, room, join)
    assert waiting.called
    server.wait(server.partial.wait_full(join.room_id))


def test_what_the_full_state_forbids_is_taken_away(server: IngestServer) -> None:
    room = open_room()
    eve = room.join(EVE)
    ban = room.member(ZOE, EVE, "ban")
    join = enter_partially(server, room)
    levels = room.events[room.current["m.room.power_levels", ""]]
    evasion = room.send("m.room.message", EVE, {"body": "still here"}, after=[join], auth=[room.create, levels, eve])
    assert take(server, room, evasion) is Receipt.ACCEPTED
    honest = room.say(ZOE, after=[evasion])
    assert take(server, room, honest) is Receipt.ACCEPTED
    last = room.say(EVE, after=[honest], auth=[room.create, levels, eve])
    assert take(server, room, last) is Receipt.ACCEPTED
    complete(server, room, join)
    assert server.event(evasion).rejected is not None
    assert server.event(last).rejected is not None
    assert server.event(honest).rejected is None
    head = server.head(room)
    assert head.extremities == (honest.event_id,)
    assert head.members[EVE] == "ban"
    assert head.state["m.room.member", EVE] == ban.event_id
    assert take(server, room, room.say(ZOE, after=[honest])) is Receipt.ACCEPTED


class Unsure:
    """Checks that lack a member for some events."""

    def __init__(self, checks: Any, *pdus: Pdu) -> None:
        self._checks = checks
        self._lacking = {pdu.event_id for pdu in pdus}

    async def find_fault(self, pdu: Pdu, *args: Any, **options: Any) -> Any:
        if pdu.event_id in self._lacking:
            return "a member is missing"
        return await self._checks.find_fault(pdu, *args, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._checks, name)


def reject_for_now(server: IngestServer, room: RemoteRoom, *pdus: Pdu) -> None:
    checks = server.ingest.checks
    server.ingest.checks = Unsure(checks, *pdus)  # type: ignore[assignment]
    for pdu in pdus:
        assert take(server, room, pdu) is Receipt.REJECTED
    server.ingest.checks = checks


@pytest.mark.parametrize("version", ["1", "11", "12"])
def test_what_was_rejected_and_is_allowed_becomes_visible(server: IngestServer, version: str) -> None:
    room = open_room(version)
    join = enter_partially(server, room)
    said = room.say(YAN, "who am I?")
    seen = room.say(ZOE, "later", after=[said])
    topic = room.send("m.room.topic", ZOE, {"topic": "late"}, "", after=[join])
    reject_for_now(server, room, said, topic)
    assert take(server, room, seen) is Receipt.ACCEPTED
    complete(server, room, join)
    assert server.seen(room) == [join.event_id, seen.event_id, said.event_id, topic.event_id]
    for _ in range(2):
        orders = [server.event(pdu).timeline_order for pdu in (join, seen, said, topic)]
        assert None not in orders and sorted(orders) == orders
        head = server.head(room)
        assert set(head.extremities) == {seen.event_id, topic.event_id}
        assert head.state["m.room.topic", ""] == topic.event_id
        for pdu in (said, topic):
            event = server.event(pdu)
            assert event.rejected is None and not event.soft_failed
            assert server.wait(server.database.read(load_state_after, event)) == room.states[pdu.event_id]
        server.forget()
    merged = room.say(YAN, after=[seen, topic])
    assert take(server, room, merged) is Receipt.ACCEPTED
    assert server.head(room).extremities == (merged.event_id,)


def test_what_the_current_state_forbids_stays_hidden(server: IngestServer) -> None:
    room = open_room()
    eve = room.join(EVE)
    join = enter_partially(server, room)
    levels = room.events[room.current["m.room.power_levels", ""]]
    hidden = room.send("m.room.message", EVE, {"body": "x"}, after=[join], auth=[room.create, levels, eve])
    reject_for_now(server, room, hidden)
    ban = room.member(ZOE, EVE, "ban", after=[join])
    assert take(server, room, ban) is Receipt.ACCEPTED
    complete(server, room, join)
    event = server.event(hidden)
    assert event.rejected is None and event.soft_failed
    assert server.seen(room) == [join.event_id, ban.event_id]
    assert server.head(room).extremities == (ban.event_id,)


def test_forks_made_meanwhile_are_resolved_on_the_full_state(server: IngestServer) -> None:
    room = open_room()
    join = enter_partially(server, room)
    sides = [room.send("m.room.topic", user, {"topic": user}, "", after=[join]) for user in (ZOE, YAN)]
    bob = room.join("@bob:test.example", after=[sides[0]])
    for pdu in (*sides, bob):
        assert take(server, room, pdu) is Receipt.ACCEPTED
    complete(server, room, join)
    head = server.head(room)
    assert set(head.extremities) == set(room.tips)
    assert dict(head.state) == room.current
    merged = room.say(YAN)
    assert take(server, room, merged) is Receipt.ACCEPTED
    assert dict(server.head(room).state) == room.current
