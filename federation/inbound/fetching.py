"""Events that this server lacks, from servers that should have them: single ones, auth chains, the state at an event.

What comes back has passed the checks that need nothing but the event (pdu_checks.py), is of the room, and is what was asked for;
that it is allowed, whoever stores it finds out. All is bounded: how many events, how many requests, how long; a server that
makes events up without end is left after the bound.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from attrs import define, field, frozen
from twisted.internet.defer import DeferredSemaphore

from federation.client import V1, FederationClient, quote_path
from federation.errors import RemoteRefused, RemoteUnreachable
from federation.inbound.pdu_checks import PduChecks
from federation.inbound.slots import Slots
from homeserver.folds.events import EventCache
from homeserver.matrix.errors import MatrixError
from homeserver.matrix.ids import EventId, RoomId, ServerName
from homeserver.matrix.pdu import Pdu
from homeserver.matrix.state_map import CREATE, StateKey
from homeserver.matrix.versions import RoomVersion
from homeserver.runtime.coroutine import gather
from homeserver.runtime.db import Database
from homeserver.store.event_gaps import load_first_gap_depth
from homeserver.store.event_graph import EventFacts, load_event_facts
from homeserver.store.events import StoredEvent

logger = logging.getLogger(__name__)

MAX_SERVERS: Final = 4
FETCH_TIMEOUT_MS: Final = 20_000
STATE_TIMEOUT_MS: Final = 60_000
MAX_EVENT_BYTES: Final = 1024 * 1024
MAX_IDS_BYTES: Final = 32 * 1024 * 1024
MAX_STATE_BYTES: Final = 128 * 1024 * 1024
MAX_CHAIN_BYTES: Final = 32 * 1024 * 1024
# States are big: how many are in memory at once, and of those that one server gives.
MAX_STATES: Final = 4
MAX_STATES_OF_SERVER: Final = 1
MAX_EVENTS_AT_ONCE: Final = 5
# Up to so many events are asked for one by one; the whole state is fetched when more are missing.
MAX_SINGLE: Final = 50
MAX_STATE_EVENTS: Final = 200_000
# Of auth chains, in all of one gap.
MAX_AUTH_EVENTS: Final = 5_000
MAX_AUTH_ROUNDS: Final = 20


class NotFetched(MatrixError):
    """No server gave what was asked for, or what it gave was not right."""

    status = 502


@frozen
class FetchedState:
    """The state before an event. `unknown` are the events of it, and of its auth chain, that were not stored here; parents stand
    before their children, and whoever stores the state stores them first."""

    state: Mapping[StateKey, EventId]
    unknown: Sequence[Pdu]


@define(eq=False)
class Fetcher:
    """Asks the servers in the order given, at most MAX_SERVERS of them."""

    client: FederationClient
    checks: PduChecks
    database: Database
    events: EventCache
    _states: Slots = field(init=False, factory=lambda: Slots(MAX_STATES, MAX_STATES_OF_SERVER))

    # -- events --------------------------------------------------------------------------------------------------------

    async def fetch_event(
        self, event_id: EventId, room_id: RoomId, version: RoomVersion, servers: Sequence[ServerName]
    ) -> Pdu:
        """Raises: NotFetched."""
        why = "there is no server to ask"
        for server in servers[:MAX_SERVERS]:
            try:
                return await self._fetch_event_from(server, event_id, room_id, version)
            except MatrixError as error:
                why = error.error
        raise NotFetched(f"Event {event_id} can't be had: {why}")

    async def fetch_events(
        self, event_ids: Iterable[EventId], room_id: RoomId, version: RoomVersion, servers: Sequence[ServerName]
    ) -> list[Pdu]:
        """Those that can be had."""
        slots = DeferredSemaphore(MAX_EVENTS_AT_ONCE)
        fetched = await gather(self._try_fetch(slots, event_id, room_id, version, servers) for event_id in event_ids)
        return [pdu for pdu in fetched if pdu is not None]

    async def _try_fetch(
        self,
        slots: DeferredSemaphore,
        event_id: EventId,
        room_id: RoomId,
        version: RoomVersion,
        servers: Sequence[ServerName],
    ) -> Pdu | None:
        await slots.acquire()
        try:
            return await self.fetch_event(event_id, room_id, version, servers)
        except NotFetched as error:
            logger.debug("%s", error)
            return None
        finally:
            slots.release()

    async def _fetch_event_from(
        self, server: ServerName, event_id: EventId, room_id: RoomId, version: RoomVersion
    ) -> Pdu:
        path = quote_path(V1 + "/event", event_id)
        answer = await self.client.get(server, path, timeout_ms=FETCH_TIMEOUT_MS, max_bytes=MAX_EVENT_BYTES)
        pdus = _list_in(answer, "pdus", server)
        if len(pdus) != 1:
            raise NotFetched(f"{server} gives {len(pdus)} events for one")
        pdu = await self.checks.check(pdus[0], version, room_id=room_id)
        if pdu.event_id != event_id:
            raise NotFetched(f"{server} gives another event than {event_id}")
        return pdu

    # -- auth chains ---------------------------------------------------------------------------------------------------

    async def fetch_auth_chain(self, pdus: Sequence[Pdu], servers: Sequence[ServerName]) -> list[Pdu]:
        """What is not stored of the auth chains of events of one room; parents before children. The events themselves are not
        among them.

        Raises: NotFetched, if one of their auth events can't be had.
        """
        chain, missing = await self._fetch_chains(pdus, servers)
        if missing:
            raise NotFetched(f"Auth events can't be had: {', '.join(sorted(missing)[:3])}")
        return sort_by_auth(chain)

    async def _fetch_chains(
        self, pdus: Sequence[Pdu], servers: Sequence[ServerName]
    ) -> tuple[Collection[Pdu], set[EventId]]:
        """What could be had, and what could not. Raises: NotFetched, if it has no end."""
        if not pdus:
            return [], set()
        room_id, version = pdus[0].room_id, pdus[0].version
        given = {pdu.event_id: pdu for pdu in pdus}
        found: dict[EventId, Pdu] = {}
        out_of_reach: set[EventId] = set()
        for _ in range(MAX_AUTH_ROUNDS):
            at_hand = {**given, **found}
            missing = await self._unknown_auth_events(at_hand.values(), room_id, {*at_hand, *out_of_reach})
            if not missing:
                return found.values(), out_of_reach
            fetched = await self._fetch_auth_events(missing, {} if found else given, room_id, version, servers)
            found.update((pdu.event_id, pdu) for pdu in fetched if pdu.event_id not in given)
            if missing.isdisjoint(found):
                out_of_reach |= missing
            if len(found) > MAX_AUTH_EVENTS:
                break
        raise NotFetched(f"The auth chain of {pdus[0].event_id} is too long")

    async def _unknown_auth_events(
        self, pdus: Iterable[Pdu], room_id: RoomId, at_hand: Collection[EventId]
    ) -> set[EventId]:
        named = {event_id for pdu in pdus for event_id in pdu.auth_events if event_id not in at_hand}
        return named - set(await self.load_facts(room_id, named)) if named else named

    async def _fetch_auth_events(
        self,
        missing: set[EventId],
        starts: Mapping[EventId, Pdu],
        room_id: RoomId,
        version: RoomVersion,
        servers: Sequence[ServerName],
    ) -> list[Pdu]:
        """At first the whole chain of an event in one request, then what is missing still."""
        for server in servers[:MAX_SERVERS] if starts else ():
            try:
                chain = await self._fetch_chain_from(server, next(iter(starts)), room_id, version)
            except MatrixError as error:
                logger.debug("No auth chain from %s: %s", server, error)
                continue
            if chain:
                return chain
        return await self.fetch_events(sorted(missing)[:MAX_SINGLE], room_id, version, servers)

    async def _fetch_chain_from(
        self, server: ServerName, event_id: EventId, room_id: RoomId, version: RoomVersion
    ) -> list[Pdu]:
        path = quote_path(V1 + "/event_auth", room_id, event_id)
        answer = await self.client.get(server, path, timeout_ms=FETCH_TIMEOUT_MS, max_bytes=MAX_CHAIN_BYTES)
        raws = _list_in(answer, "auth_chain", server)
        if len(raws) > MAX_AUTH_EVENTS:
            raise NotFetched(f"{server} gives an auth chain of {len(raws)} events")
        return await self.checks.check_many(raws, version, room_id=room_id, source=server)

    # -- state ---------------------------------------------------------------------------------------------------------

    async def fetch_state_at(self, event: Pdu, servers: Sequence[ServerName]) -> FetchedState:
        """The state before the event, as the first server says that gives a whole one.

        Raises: NotFetched.
        """
        why = "there is no server to ask"
        for server in servers[:MAX_SERVERS]:
            try:
                async with self._states.hold(server):
                    return await self._fetch_state_from(server, event, [server, *servers])
            except (RemoteUnreachable, RemoteRefused, NotFetched) as error:
                why = error.error
        raise NotFetched(f"The state at {event.event_id} can't be had: {why}")

    async def _fetch_state_from(self, server: ServerName, event: Pdu, servers: Sequence[ServerName]) -> FetchedState:
        room_id = event.room_id
        path = quote_path(V1 + "/state_ids", room_id)
        query = {"event_id": event.event_id}
        answer = await self.client.get(server, path, query, timeout_ms=STATE_TIMEOUT_MS, max_bytes=MAX_IDS_BYTES)
        state_ids, auth_ids = _ids_in(answer, "pdu_ids", server), _ids_in(answer, "auth_chain_ids", server)
        wanted = state_ids | auth_ids
        known = await self.load_facts(room_id, wanted)
        missing = wanted - set(known)
        fetched = {pdu.event_id: pdu for pdu in await self._fetch_of_state(server, event, missing, servers)}
        chain, _ = await self._fetch_chains(list(fetched.values()), servers)
        at_hand = {**fetched, **{pdu.event_id: pdu for pdu in chain}}
        unknown = _grounded(sort_by_auth(at_hand.values()), await self._stored_auth_events(at_hand.values(), room_id))
        usable = {pdu.event_id: pdu for pdu in unknown}
        lost = missing.difference(usable)
        if lost:
            # Servers die, and their keys with them: a room must not be out of reach because of that.
            logger.info("%d of the events at %s that %s names can't be had: %s", len(lost), event, server, min(lost))
        return FetchedState(_state_map(server, state_ids, known, usable), unknown)

    async def _stored_auth_events(self, pdus: Iterable[Pdu], room_id: RoomId) -> Collection[EventId]:
        return await self.load_facts(room_id, {event_id for pdu in pdus for event_id in pdu.auth_events})

    async def _fetch_of_state(
        self, server: ServerName, event: Pdu, missing: set[EventId], servers: Sequence[ServerName]
    ) -> list[Pdu]:
        room_id, version = event.room_id, event.version
        if len(missing) <= MAX_SINGLE:
            return await self.fetch_events(sorted(missing), room_id, version, servers)
        path, query = quote_path(V1 + "/state", room_id), {"event_id": event.event_id}
        answer = await self.client.get(server, path, query, timeout_ms=STATE_TIMEOUT_MS, max_bytes=MAX_STATE_BYTES)
        raws = _list_in(answer, "pdus", server) + _list_in(answer, "auth_chain", server)
        if len(raws) > 2 * MAX_STATE_EVENTS:
            raise NotFetched(f"{server} gives a state of {len(raws)} events")
        pdus = await self.checks.check_many(raws, version, room_id=room_id, source=server, only=missing)
        rest = missing.difference(pdu.event_id for pdu in pdus)
        if rest and len(rest) <= MAX_SINGLE:
            pdus += await self.fetch_events(sorted(rest), room_id, version, servers)
        return pdus

    async def load_facts(self, room_id: RoomId, ids: Collection[EventId]) -> dict[EventId, EventFacts]:
        """What is stored of these events."""
        cached = {event_id: event for event_id in ids if (event := self.events.get(event_id)) is not None}
        facts = {event_id: _facts(event) for event_id, event in cached.items() if event.pdu.room_id == room_id}
        missing = [event_id for event_id in ids if event_id not in cached]
        return {**facts, **await self.database.read(load_event_facts, room_id, missing)} if missing else facts

    async def load_min_depth(self, room_id: RoomId) -> int:
        """The depth of the first event before which history is missing; 0 if none is."""
        return await self.database.read(load_first_gap_depth, room_id)


def _facts(event: StoredEvent) -> EventFacts:
    key = event.pdu.key if event.pdu.is_state else None
    return EventFacts(key, event.rejected is not None, not event.is_outlier)


def sort_by_auth(pdus: Iterable[Pdu]) -> list[Pdu]:
    """Events after their auth events among them; events in a circle, and those that rest on them, are left out."""
    return _sorted({pdu.event_id: pdu for pdu in pdus}, {pdu.event_id: pdu.auth_events for pdu in pdus})


def sort_by_prev(pdus: Iterable[Pdu]) -> list[Pdu]:
    """Events after their prev events among them; events in a circle, and those after them, are left out."""
    return _sorted({pdu.event_id: pdu for pdu in pdus}, {pdu.event_id: pdu.prev_events for pdu in pdus})


def _sorted(pdus: Mapping[EventId, Pdu], edges: Mapping[EventId, Sequence[EventId]]) -> list[Pdu]:
    waits = {event_id: {each for each in edges[event_id] if each in pdus} for event_id in pdus}
    children: dict[EventId, list[EventId]] = {}
    for event_id, parents in waits.items():
        for parent in parents:
            children.setdefault(parent, []).append(event_id)
    ready = [event_id for event_id, parents in waits.items() if not parents]
    ordered = []
    for event_id in ready:  # grows
        ordered.append(pdus[event_id])
        for child in children.get(event_id, ()):
            waits[child].discard(event_id)
            if not waits[child]:
                ready.append(child)
    return ordered


def _grounded(pdus: Sequence[Pdu], stored: Collection[EventId]) -> list[Pdu]:
    """Those, parents first, of which all auth events are there."""
    there = set(stored)
    kept = []
    for pdu in pdus:
        if there.issuperset(pdu.auth_events):
            there.add(pdu.event_id)
            kept.append(pdu)
    return kept


def _state_map(
    server: ServerName,
    state_ids: Iterable[EventId],
    known: Mapping[EventId, EventFacts],
    fetched: Mapping[EventId, Pdu],
) -> dict[StateKey, EventId]:
    """Raises: NotFetched, if that can't be the state of a room. What can't be had, and what we rejected, is
    left out."""
    state: dict[StateKey, EventId] = {}
    for event_id in state_ids:
        facts, pdu = known.get(event_id), fetched.get(event_id)
        if facts is not None and facts.rejected:
            continue
        if facts is None and pdu is None:
            continue
        key = facts.key if facts is not None else pdu.key if pdu is not None and pdu.is_state else None
        if key is None:
            raise NotFetched(f"{server} gives a state with {event_id}, which is no state event")
        if state.setdefault(key, event_id) != event_id:
            raise NotFetched(f"{server} gives a state with two events of type {key[0]}")
    if CREATE not in state:
        raise NotFetched(f"{server} gives a state without m.room.create")
    return state


def _list_in(answer: Any, field: str, server: ServerName) -> list[Any]:
    value = answer.get(field) if isinstance(answer, dict) else None
    if not isinstance(value, list):
        raise NotFetched(f"{server} gives no {field}")
    return value


def _ids_in(answer: Any, field: str, server: ServerName) -> set[EventId]:
    ids = _list_in(answer, field, server)
    if len(ids) > MAX_STATE_EVENTS:
        raise NotFetched(f"{server} gives {len(ids)} {field}")
    if not all(isinstance(each, str) and each.startswith("$") and "\0" not in each for each in ids):
        raise NotFetched(f"{server} gives {field} that are no event ids")
    return {EventId(each) for each in ids}
