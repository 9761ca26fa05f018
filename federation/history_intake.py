"""Events of the past, checked, on their way into the timeline: with their auth events, and the state where they begin.

Inside a page each event finds its state from those before it. What begins the page (an event whose prev_events are neither in it
nor here) has the state of the event behind the page, where all between them are messages one after another: they change none.
Else it is another server that tells the state, once for each such beginning.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Collection, Mapping, Sequence
from typing import Final, Protocol

from attrs import define
from sqlalchemy import Connection

from federation.inbound.fetching import Fetcher, NotFetched
from homeserver.matrix.ids import EventId, RoomId, ServerName
from homeserver.matrix.pdu import Pdu
from homeserver.matrix.state_map import StateKey
from homeserver.matrix.versions import RoomVersion
from homeserver.rooms.partial_states import PartialStates
from homeserver.store.event_graph import load_state_before
from homeserver.store.events import load_events

logger = logging.getLogger(__name__)

# Beginnings of one page whose states are fetched. Of a page with more branches, the rest comes with the next one.
MAX_BEGINNINGS: Final = 8

State = Mapping[StateKey, EventId]


class History(Protocol):
    """homeserver/rooms/ingest_history.py"""

    def backfill(
        self, room_id: RoomId, pdus: Sequence[Pdu], /, *, states: Mapping[EventId, State]
    ) -> Awaitable[int]: ...


class Outliers(Protocol):
    """homeserver/rooms/ingest.py"""

    def store_outliers(self, version: RoomVersion, pdus: Sequence[Pdu], /) -> Awaitable[object]: ...


@define(eq=False)
class HistoryIntake:
    fetcher: Fetcher
    outliers: Outliers
    history: History
    partial: PartialStates

    async def take(self, pdus: Sequence[Pdu], servers: Sequence[ServerName], follower: EventId) -> int:
        """How many of the events, all of one room, are new in the timeline. Raises: NotFetched.

        follower: the event of the timeline to which they lead.
        """
        if not pdus:
            return 0
        await self._store(await self.fetcher.fetch_auth_chain(pdus, servers))
        beginnings = (await self._load_beginnings(pdus))[:MAX_BEGINNINGS]
        states = await self._load_unchanged(beginnings, pdus, follower)
        for pdu in beginnings:
            if pdu.event_id in states:
                continue
            try:
                states[pdu.event_id] = await self._fetch_state(pdu, servers)
            except NotFetched as error:
                logger.info("%s", error.error)
        return await self.history.backfill(pdus[0].room_id, pdus, states=states)

    async def _load_unchanged(
        self, beginnings: Sequence[Pdu], pdus: Sequence[Pdu], follower: EventId
    ) -> dict[EventId, State]:
        """The states of those beginnings behind which nothing changed until the follower."""
        if not beginnings or self.partial.get(beginnings[0].room_id) is not None:
            return {}
        return await self.fetcher.database.read(_load_unchanged, beginnings, pdus, follower)

    async def _fetch_state(self, pdu: Pdu, servers: Sequence[ServerName]) -> State:
        fetched = await self.fetcher.fetch_state_at(pdu, servers)
        await self._store(fetched.unknown)
        return fetched.state

    async def _store(self, pdus: Sequence[Pdu]) -> None:
        if pdus:
            await self.outliers.store_outliers(pdus[0].version, pdus)

    async def _load_beginnings(self, pdus: Sequence[Pdu]) -> list[Pdu]:
        """The events whose state can't be told from those before them; the newest first."""
        there = {pdu.event_id for pdu in pdus}
        outside = {prev_id for pdu in pdus for prev_id in pdu.prev_events if prev_id not in there}
        facts = await self.fetcher.load_facts(pdus[0].room_id, outside)
        there |= {event_id for event_id, fact in facts.items() if fact.has_state}
        return _lacking(pdus, there)


def _load_unchanged(
    conn: Connection, beginnings: Sequence[Pdu], pdus: Sequence[Pdu], follower: EventId
) -> dict[EventId, State]:
    room_id, version = pdus[0].room_id, pdus[0].version
    for event in load_events(conn, [follower], {room_id: version}):
        same = messages_before(event.pdu, pdus)
        unchanged = [pdu.event_id for pdu in beginnings if pdu.event_id in same]
        state = load_state_before(conn, event) if unchanged else None
        return dict.fromkeys(unchanged, state) if state is not None else {}
    return {}


def messages_before(follower: Pdu, pdus: Sequence[Pdu]) -> set[EventId]:
    """Back from the follower, for as long as there is one event before each, and that is no state."""
    by_id = {pdu.event_id: pdu for pdu in pdus if not pdu.is_state}
    found: set[EventId] = set()
    before = follower.prev_events
    while len(before) == 1 and before[0] in by_id and before[0] not in found:
        found.add(before[0])
        before = by_id[before[0]].prev_events
    return found


def _lacking(pdus: Sequence[Pdu], there: Collection[EventId]) -> list[Pdu]:
    lacking = [pdu for pdu in pdus if not pdu.is_create and not all(prev_id in there for prev_id in pdu.prev_events)]
    return sorted(lacking, key=lambda pdu: -pdu.depth)
