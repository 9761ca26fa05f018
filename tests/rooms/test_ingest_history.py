"""Older history from other servers: its place in the timeline, its states, and who may see it."""

from __future__ import annotations

from typing import Any

import pytest

from homeserver.folds.histories import Histories
from homeserver.matrix.ids import EventId, RoomId, UserId
from homeserver.matrix.pdu import Pdu
from homeserver.rooms.ingest import Receipt
from homeserver.rooms.ingest_history import History
from homeserver.store.event_gaps import load_gaps
from homeserver.store.event_graph import load_auth_chain, load_before, load_state_after, load_state_before
from homeserver.store.events import load_timeline
from tests.rooms.harness import ALICE
from tests.rooms.remote_room import RemoteRoom
from tests.rooms.test_ingest import YAN, ZOE, IngestServer, open_room, server

__all__ = ["server"]
BOB = UserId("@bob:test.example")


def backfill(server: IngestServer, pdus: list[Pdu], **options: Any) -> int:
    added: int = server.wait(History(server.ingest).backfill(pdus[0].room_id, pdus, **options))
    return added


def timeline(server: IngestServer, room: RemoteRoom) -> list[EventId]:
    assert room.room_id is not None
    read = server.database.read(load_timeline, room.room_id, room.version, -(2**62), 2**62, 1000, False)
    return [event.event_id for event in server.wait(read)]


def gaps(server: IngestServer, room: RemoteRoom) -> list[EventId]:
    return [gap.missing_id for gap in server.wait(server.database.read(load_gaps, room.room_id))]


def with_state(room: RemoteRoom, server: IngestServer, pdu: Pdu) -> Any:
    """What a server tells of the state before the event, stored."""
    state = room.state_before(pdu.prev_events)
    told = [room.events[event_id] for event_id in state.values()]
    server.wait(server.ingest.store_outliers(room.version, [*room.auth_chain(told), *told]))
    return {pdu.event_id: state}


@pytest.mark.parametrize("version", ["1", "11", "12"])
def test_whole_history_is_fetched_page_by_page(server: IngestServer, version: str) -> None:
    room = open_room(version)
    for number in range(10):
        room.say(ZOE, f"{number}")
        room.send("m.room.topic", YAN, {"topic": f"{number}"}, "")
    events = list(room.events.values())
    join = server.enter(room)
    assert gaps(server, room) == [events[-1].event_id]
    for last in range(len(events), 0, -5):
        page = events[max(0, last - 5) : last]
        states = with_state(room, server, page[0]) if page[0].prev_events else {}
        assert backfill(server, page[::-1], states=states) == len(page)
    assert timeline(server, room) == [event.event_id for event in events] + [join.event_id]
    assert gaps(server, room) == []
    assert backfill(server, events[:5]) == 0
    for pdu in events:
        stored = server.event(pdu)
        assert server.wait(server.database.read(load_state_before, stored)) == room.state_before(pdu.prev_events)
        assert server.wait(server.database.read(load_state_after, stored)) == room.states[pdu.event_id]
    assert dict(server.head(room).state) == room.current


def test_event_without_state_is_left_out_and_a_forbidden_one_hidden(server: IngestServer) -> None:
    room = open_room()
    first, second = room.say(ZOE, "1"), room.say(ZOE, "2")
    server.enter(room)
    assert backfill(server, [second]) == 0
    assert gaps(server, room) == [second.event_id]
    levels = room.events[room.current["m.room.power_levels", ""]]
    forged = room.say("@eve:evil.example", after=[first], auth=[room.create, levels])
    states = with_state(room, server, first)
    assert backfill(server, [second, forged, first], states=states) == 2
    assert server.event(forged).rejected is not None
    assert timeline(server, room)[:2] == [first.event_id, second.event_id]


def test_redactions_of_history_take_effect_but_for_rejected_ones(server: IngestServer) -> None:
    room = open_room()
    first, second = room.say(YAN, "one"), room.say(YAN, "two")
    room.send("m.room.redaction", ZOE, {"redacts": first.event_id})
    levels = room.events[room.current["m.room.power_levels", ""]]
    auth = [room.create, levels]
    forged = room.send("m.room.redaction", "@eve:other.example", {"redacts": second.event_id}, auth=auth)
    room.say(ZOE, "last")
    server.enter(room)
    events = list(room.events.values())[:-1]
    assert backfill(server, events) == len(events) - 1
    assert server.event(forged).rejected is not None
    server.forget()
    assert server.event(first).pdu.content == {}
    assert server.event(second).pdu.content["body"] == "two"


def test_gap_in_the_middle_is_filled_between_its_ends(server: IngestServer) -> None:
    room = open_room()
    server.enter(room)
    server.receive(room.say(ZOE, "before"))
    left = room.member(ALICE, ALICE, "leave")
    assert server.receive(left) is Receipt.ACCEPTED
    missed = [room.say(ZOE, f"missed {number}") for number in range(100)]
    join = server.enter(room)
    assert backfill(server, missed, states=with_state(room, server, missed[0])) == 100
    order = timeline(server, room)
    assert order.index(left.event_id) < order.index(missed[-1].event_id) < order.index(join.event_id)
    assert len(gaps(server, room)) == 1  # what was before the first join


def test_history_is_seen_by_the_state_it_was_sent_in(server: IngestServer) -> None:
    room = open_room()
    room.send("m.room.history_visibility", ZOE, {"history_visibility": "joined"}, "")
    room.join(BOB)
    hidden = room.say(ZOE, "for those who were there")
    room.member(BOB, BOB, "leave")
    room.send("m.room.history_visibility", ZOE, {"history_visibility": "shared"}, "")
    shared = room.say(ZOE, "for all to come")
    join = server.enter(room)
    events = list(room.events.values())[:-1]
    assert backfill(server, events) == len(events)
    histories = Histories(server.database, 10)

    def sees(user: UserId, pdu: Pdu) -> bool:
        history = server.wait(histories.load(RoomId(pdu.room_id), user))
        return bool(history.can_see(server.event(pdu)))

    assert sees(ALICE, shared)
    assert not sees(ALICE, hidden)
    assert sees(BOB, hidden)
    assert not sees(BOB, shared)
    assert sees(ALICE, join)


def test_event_of_a_fork_is_seen_by_the_state_of_its_branch(server: IngestServer) -> None:
    room = open_room()
    server.enter(room)
    base = [room.events[room.tips[0]]]
    closed = room.send("m.room.history_visibility", ZOE, {"history_visibility": "joined"}, "")
    server.receive(closed)
    server.receive(room.say(ZOE))
    aside = room.say(YAN, "on a branch where all is shared", after=base)
    inside = room.say(YAN, "where nothing is")
    bob = room.join(BOB)
    for pdu in (aside, inside, bob):
        assert server.receive(pdu) is Receipt.ACCEPTED
    histories = Histories(server.database, 10)
    history = server.wait(histories.load(aside.room_id, BOB))
    assert history.can_see(server.event(aside))
    assert not history.can_see(server.event(inside))


def test_walks_over_the_graph(server: IngestServer) -> None:
    room = open_room()
    join = server.enter(room)
    said = [room.say(ZOE, f"{number}") for number in range(6)]
    for pdu in said:
        server.receive(pdu)

    def walk(starts: list[Pdu], limit: int, **options: Any) -> list[EventId]:
        ids = [pdu.event_id for pdu in starts]
        read = server.database.read(lambda conn: load_before(conn, join.room_id, room.version, ids, limit, **options))
        return [event.event_id for event in server.wait(read)]

    assert walk([said[5]], 3) == [said[4].event_id, said[3].event_id, said[2].event_id]
    assert walk([said[5]], 3, with_starts=True)[0] == said[5].event_id
    assert walk([said[5]], 10, stop_at=[said[2].event_id]) == [said[4].event_id, said[3].event_id]
    assert walk([said[5]], 10, min_depth=said[3].depth) == [said[4].event_id, said[3].event_id]
    chain = server.wait(server.database.read(load_auth_chain, join.room_id, [said[0].event_id]))
    assert chain == {event.event_id for event in room.auth_chain([said[0]])}
