"""Older history that other servers tell: events that enter the timeline before what is there.

The order of the timeline are positions of the log for what came live, negative numbers for what was before the first of it.
A gap in the middle (this server was away) is filled with numbers that are free between the positions at its ends: most
positions belong to other rooms, and the event behind the gap left some free (store/room_writes.py). Where they do not suffice,
only the newest events get a place.

What is sticky is news, wherever it comes from. It gets no place in the past, if the room's state allows it now, but one at the
end, as if its server had sent it (rooms/second_looks.py).

Spec: server-server-api#backfilling-and-retrieving-missing-events
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress

from attrs import define, field
from sqlalchemy import Connection

from homeserver.matrix.ids import EventId, RoomId
from homeserver.matrix.pdu import Pdu
from homeserver.matrix.state_map import StateKey, build_state_map
from homeserver.matrix.sticky import is_sticky_at
from homeserver.rooms.errors import StateNotFull
from homeserver.rooms.heads import Room
from homeserver.rooms.ingest import Ingest, load_facts, save_arrival
from homeserver.rooms.ingest_errors import MissingEvents
from homeserver.rooms.ingest_run import Arrival, Facts
from homeserver.rooms.state_nodes import StateNode
from homeserver.store.event_gaps import drop_gaps, load_gap_order, save_gaps
from homeserver.store.event_graph import load_earliest_order, load_event_facts, load_order_before
from homeserver.store.events import StoredEvent
from homeserver.store.outliers import history_item
from homeserver.store.snapshots import empty_snapshot

MAX_EVENTS = 500

GivenStates = Mapping[EventId, Mapping[StateKey, EventId]]
NO_STATES: GivenStates = {}


@define(eq=False)
class History:
    """Takes in what was before."""

    ingest: Ingest

    async def backfill(self, room_id: RoomId, pdus: Sequence[Pdu], /, *, states: GivenStates = NO_STATES) -> int:
        """How many of the events are new in the timeline. Their format, signatures and hashes were checked.

        The state before each is that after its prev events, or what `states` tells for it, whose events are stored.
        Events for which neither is known, and those whose auth events are not stored, are left out.

        Raises: NotFound (no such room).
        """
        if not pdus:
            return 0
        ingest, pdus = self.ingest, pdus[:MAX_EVENTS]
        if any(is_sticky_at(pdu, ingest.partial.clock.time_ms()) for pdu in pdus):
            # What may be news depends on who is in the room.
            with suppress(StateNotFull):
                await ingest.partial.wait_full(room_id)
        async with ingest.turns.take(room_id):
            await ingest.store_outliers(pdus[0].version, pdus)
            room = await ingest.heads.load_room(room_id)
            batch = Batch(ingest, room, states)
            await batch.add_all(pdus)
            await batch.hold_back_news()
            return await self._save(room_id, batch)

    async def _save(self, room_id: RoomId, batch: Batch) -> int:
        arrivals = batch.arrivals
        if not arrivals:
            return 0
        shown = [arrival.event for arrival in arrivals if not arrival.is_hidden]
        named = {arrival.event.event_id for arrival in arrivals if arrival.event.rejected is None}
        last, free = await self.ingest.database.read(_load_free_places, room_id, named)
        for place, event in zip(range(last, last - free, -1), reversed(shown), strict=False):
            event.timeline_order = place
        news = [arrival.new for arrival in arrivals]
        await self.ingest.log.submit(history_item(room_id, news, _save_all(arrivals)))
        for new in news:
            for snapshot in (new.before, new.after):
                if snapshot is not None:
                    snapshot.settle()
            self.ingest.events.put(new.event)
            if new.redacts is not None and (target := self.ingest.events.get(new.redacts)) is not None:
                target.redact(new.event.event_id)
        return sum(event.timeline_order is not None for event in shown)


@define(eq=False)
class Batch:
    """Events of history as they find their states, oldest first."""

    ingest: Ingest
    room: Room
    states: GivenStates
    arrivals: list[Arrival] = field(factory=list)
    _after: dict[EventId, StateNode] = field(factory=dict)
    _sighted: tuple[StateNode, set[StateKey]] | None = None

    async def add_all(self, pdus: Sequence[Pdu]) -> None:
        head = self.room.committed
        rooms_of = {pdu.event_id: head.room_id for pdu in pdus}
        stored = await self.ingest.events.load_many(rooms_of, {head.room_id: head.version})
        for pdu in prev_events_first(pdus):
            known = stored.get(pdu.event_id)
            if known is not None and known.is_outlier and pdu.room_id == head.room_id:
                try:
                    await self._add(pdu, known)
                except MissingEvents:
                    continue

    async def hold_back_news(self) -> None:
        """What is sticky, and allowed now, is soft failed until it takes its place."""
        ingest, head = self.ingest, self.room.committed
        now_ms = ingest.partial.clock.time_ms()
        for arrival in self.arrivals:
            event = arrival.event
            if event.sticky_until_ms is not None and event.sticky_until_ms > now_ms:
                fault = await ingest.checks.find_fault_in(event.pdu, head.create, head.state)
                event.soft_failed = fault is None

    async def _add(self, pdu: Pdu, known: StoredEvent) -> None:
        ingest, head = self.ingest, self.room.committed
        before = await self._load_before(pdu)
        if before is None:
            return
        fault = known.rejected or await ingest.checks.find_fault(pdu, head.create, before.state)
        lacking, facts = await ingest.database.read(_load_what_is_known, pdu)
        arrival = await ingest.arrive(self.room, pdu, facts, before, fault, frozenset(lacking - self._after.keys()))
        arrival.event.timeline_order = None
        arrival.event.sight = await self._load_sight(before)
        self._after[pdu.event_id] = arrival.after
        self.arrivals.append(arrival)

    async def _load_before(self, pdu: Pdu) -> StateNode | None:
        if pdu.is_create:
            return StateNode(empty_snapshot(pdu.room_id), build_state_map())
        head, states = self.room.committed, self.ingest.states
        nodes = {self._after[prev_id] for prev_id in pdu.prev_events if prev_id in self._after}
        others = [prev_id for prev_id in pdu.prev_events if prev_id not in self._after]
        found = await self.ingest.events.load_many(dict.fromkeys(others, head.room_id), {head.room_id: head.version})
        there = [event for event in found.values() if not event.is_outlier and event.pdu.room_id == head.room_id]
        given = self.states.get(pdu.event_id)
        if given is None and len(there) < len(others):
            return None
        nodes |= {await states.load_after(self.room, event) for event in there}
        if given is not None:
            nodes.add(await states.load_given(self.room, given))
        return await states.resolve(self.room, nodes) if nodes else None

    async def _load_sight(self, before: StateNode) -> str | None:
        sights = self.ingest.sights
        keys = sights.keys_after(self._sighted[1], self._sighted[0], before) if self._sighted else sights.keys(before)
        self._sighted = before, keys
        return await sights.load_whole(self.room.committed, before, keys)


def prev_events_first(pdus: Collection[Pdu]) -> Iterator[Pdu]:
    """The events in an order in which each stands behind those of its prev events that are among them."""
    by_id = {pdu.event_id: pdu for pdu in pdus}
    done: set[EventId] = set()
    for first in sorted(by_id.values(), key=lambda pdu: (pdu.depth, pdu.origin_server_ts, pdu.event_id)):
        if first.event_id in done:
            continue
        done.add(first.event_id)
        stack = [(first, iter(first.prev_events))]
        while stack:
            pdu, rest = stack[-1]
            prev_id = next((prev_id for prev_id in rest if prev_id in by_id and prev_id not in done), None)
            if prev_id is None:
                stack.pop()
                yield pdu
            else:
                done.add(prev_id)
                stack.append((by_id[prev_id], iter(by_id[prev_id].prev_events)))


def _load_free_places(conn: Connection, room_id: RoomId, named: Collection[EventId]) -> tuple[int, int]:
    """The last place before the events that follow, and how many are free up to there."""
    following = load_gap_order(conn, room_id, named)
    earliest = min(load_earliest_order(conn, room_id), 0)
    if following is None or following <= earliest:
        return earliest - 1, MAX_EVENTS
    before = load_order_before(conn, room_id, following)
    if before is None:  # the first live event; what was before it has negative places
        return min(following, 0) - 1, MAX_EVENTS
    return following - 1, following - before - 1


def _load_what_is_known(conn: Connection, pdu: Pdu) -> tuple[set[EventId], Facts]:
    """The prev events that have no state here, and the facts."""
    prevs = load_event_facts(conn, pdu.room_id, pdu.prev_events)
    lacking = {prev_id for prev_id in pdu.prev_events if prev_id not in prevs or not prevs[prev_id].has_state}
    facts, _ = load_facts(conn, pdu.room_id, pdu.version, [pdu.event_id])
    return lacking, facts[pdu.event_id]


def _save_all(arrivals: Sequence[Arrival]) -> Callable[[Connection, int], None]:
    saves = [save_arrival(arrival) for arrival in arrivals]
    oldest = next((arrival for arrival in arrivals if arrival.event.timeline_order is not None), None)
    # What lies behind a hidden event is reached from the oldest one that is shown.
    behind = {prev_id for arrival in arrivals if arrival.is_hidden for prev_id in arrival.missing}
    # For what comes before an event without a place there is no place either.
    lost = {prev_id for arrival in arrivals if arrival.event.timeline_order is None for prev_id in arrival.missing}

    def save(conn: Connection, position: int) -> None:
        for save_one in saves:
            save_one(conn, position)
        drop_gaps(conn, arrivals[0].event.pdu.room_id, list(lost))
        if oldest is not None and behind:
            pdu = oldest.event.pdu
            save_gaps(conn, pdu.room_id, pdu.event_id, behind)

    return save
