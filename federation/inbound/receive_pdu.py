"""One event from another server, from its checks to the room.

The events before it that this server lacks come first:

1. What was missed lately is asked for with get_missing_events, backwards from the event, in a bounded number of rounds.
2. Where a gap remains (an outage was long), the events right after it are taken in at the state that another server says was
   there. They fork off what is known here; state resolution, not that server's word, decides what holds in the room then. An
   event with one known and one missing parent thus can't replace the state that we have.
3. What lies in the gap is history, fetched when somebody reads back so far.

Auth events that are missing are fetched with their chains and stored as outliers.

Spec: server-server-api#checks-performed-on-receipt-of-a-pdu
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import Enum
from itertools import islice
from typing import Final, Protocol

from attrs import define, field

from federation.client import V1, FederationClient, quote_path
from federation.errors import RemoteRefused, RemoteUnreachable
from federation.inbound.fetching import FETCH_TIMEOUT_MS, Fetcher, NotFetched, sort_by_prev
from federation.inbound.pdu_checks import PduChecks
from federation.inbound.slots import Slots
from homeserver.matrix.ids import EventId, ServerName, domain_of
from homeserver.matrix.pdu import Pdu
from homeserver.matrix.state_map import StateKey
from homeserver.matrix.versions import RoomVersion
from homeserver.rooms.head import RoomHead
from homeserver.rooms.heads import RoomHeads
from homeserver.runtime.clock import Clock
from homeserver.runtime.coroutine import within

logger = logging.getLogger(__name__)

MISSING_PER_ROUND: Final = 20
MAX_ROUNDS: Final = 10
MAX_MISSING: Final = 200
MAX_MISSING_BYTES: Final = 4 * 1024 * 1024
# Events at the edge of a gap for which a state is fetched.
MAX_EDGES: Final = 20
MAX_GAPS: Final = 50
MAX_GAPS_FOR_ORIGIN: Final = 3
GAP_TIMEOUT_MS: Final = 120_000
MAX_EARLIEST: Final = 20
MAX_SERVERS: Final = 4


class Ingest(Protocol):
    """What is needed of homeserver.rooms.ingest."""

    async def store_outliers(self, version: RoomVersion, pdus: Sequence[Pdu], /) -> None: ...

    async def receive(self, pdu: Pdu, /, *, state_before: Mapping[StateKey, EventId] | None = None) -> Enum: ...


@define(eq=False)
class PduReceiver:
    """Takes events in whose format, signatures and hashes were checked."""

    server_name: ServerName
    client: FederationClient
    checks: PduChecks
    fetcher: Fetcher
    ingest: Ingest
    heads: RoomHeads
    clock: Clock
    _gaps: Slots = field(init=False, factory=lambda: Slots(MAX_GAPS, MAX_GAPS_FOR_ORIGIN))

    async def receive(self, pdu: Pdu, origin: ServerName) -> None:
        """Returns when the event is stored, accepted or not.

        Raises: NotFetched, if what comes before it can't be had now; NotFound, if the room is unknown.
        """
        missing = await self._missing_prev_events([pdu])
        if missing is None:
            return
        if not missing:
            await self._take_in(pdu, [origin])
            return
        async with self._gaps.hold(origin):
            try:
                await within(self.clock, GAP_TIMEOUT_MS, self._fill_gap(pdu, origin))
            except TimeoutError:
                raise NotFetched(f"What comes before {pdu.event_id} takes too long to be had") from None

    async def _take_in(
        self, pdu: Pdu, servers: Sequence[ServerName], state_before: Mapping[StateKey, EventId] | None = None
    ) -> None:
        chain = await self.fetcher.fetch_auth_chain([pdu], servers)
        if chain:
            await self.ingest.store_outliers(pdu.version, chain)
        await self.ingest.receive(pdu, state_before=state_before)

    async def _missing_prev_events(self, pdus: Sequence[Pdu]) -> set[EventId] | None:
        """Of one event alone: None if it is there itself."""
        named = {event_id for pdu in pdus for event_id in pdu.prev_events}
        alone = pdus[0].event_id if len(pdus) == 1 else None
        facts = await self.fetcher.load_facts(pdus[0].room_id, named | ({alone} if alone else set()))
        if alone in facts and facts[alone].has_state:
            return None
        return {event_id for event_id in named if event_id not in facts or not facts[event_id].has_state}

    # -- what comes before ---------------------------------------------------------------------------------------------

    async def _fill_gap(self, pdu: Pdu, origin: ServerName) -> None:
        head = self.heads.get(pdu.room_id) or await self.heads.load(pdu.room_id)
        servers = servers_to_ask(head, self.server_name, [origin, domain_of(pdu.sender)])
        found, missing = await self._fetch_missing(head, pdu, servers)
        for edge in await self.fetcher.fetch_events(sorted(missing)[:MAX_EDGES], pdu.room_id, pdu.version, servers):
            await self._take_in_edge(edge, servers)
        for each in sort_by_prev(found):
            if await self._missing_prev_events([each]) == set():
                await self._take_in(each, servers)
        missing = await self._missing_prev_events([pdu]) or set()
        if missing:
            raise NotFetched(f"What comes before {pdu.event_id} can't be had: {min(missing)}")
        await self._take_in(pdu, servers)

    async def _fetch_missing(
        self, head: RoomHead, pdu: Pdu, servers: Sequence[ServerName]
    ) -> tuple[list[Pdu], set[EventId]]:
        """The events between ours and this one as far as they are to be had so, and what is missing before them."""
        found: dict[EventId, Pdu] = {}
        missing = await self._missing_before(found, pdu)
        for _ in range(MAX_ROUNDS):
            if not missing or len(found) >= MAX_MISSING:
                break
            latest = [each.event_id for each in [*found.values(), pdu] if missing.intersection(each.prev_events)]
            fetched = await self._get_missing_events(head, latest[:MISSING_PER_ROUND], servers)
            new = {each.event_id: each for each in fetched if each.event_id not in found and each != pdu}
            if missing.isdisjoint(new):
                break
            found.update(_connected(new, missing))
            missing = await self._missing_before(found, pdu)
        return list(found.values()), missing

    async def _missing_before(self, found: Mapping[EventId, Pdu], pdu: Pdu) -> set[EventId]:
        missing = await self._missing_prev_events([*found.values(), pdu, pdu])
        assert missing is not None
        return missing.difference(found, [pdu.event_id])

    async def _get_missing_events(
        self, head: RoomHead, latest: Sequence[EventId], servers: Sequence[ServerName]
    ) -> list[Pdu]:
        """From the first server that knows any."""
        path = quote_path(V1 + "/get_missing_events", head.room_id)
        body = {
            "earliest_events": list(head.extremities[:MAX_EARLIEST]),
            "latest_events": list(latest),
            "limit": MISSING_PER_ROUND,
            "min_depth": 0,
        }
        for server in servers:
            try:
                answer = await self.client.post(
                    server, path, body, timeout_ms=FETCH_TIMEOUT_MS, max_bytes=MAX_MISSING_BYTES
                )
            except (RemoteUnreachable, RemoteRefused) as error:
                logger.debug("No missing events from %s: %s", server, error)
                continue
            events = answer.get("events") if isinstance(answer, dict) else None
            if isinstance(events, list) and events:
                raws = events[: MISSING_PER_ROUND * 2]
                return await self.checks.check_many(raws, head.version, room_id=head.room_id, source=server)
        return []

    # -- the edge of a gap ---------------------------------------------------------------------------------------------

    async def _take_in_edge(self, edge: Pdu, servers: Sequence[ServerName]) -> None:
        """Raises: NotFetched."""
        at = await self.fetcher.fetch_state_at(edge, servers)
        if at.unknown:
            await self.ingest.store_outliers(edge.version, at.unknown)
        await self._take_in(edge, servers, at.state)


def servers_to_ask(head: RoomHead, own: ServerName, first: Iterable[ServerName]) -> list[ServerName]:
    """The `first` ones, and some of those that are in the room."""
    servers = dict.fromkeys(first)
    servers.update(dict.fromkeys(islice(head.joined_servers(), MAX_SERVERS)))
    servers.pop(own, None)
    return list(servers)[:MAX_SERVERS]


def _connected(new: Mapping[EventId, Pdu], missing: Collection[EventId]) -> dict[EventId, Pdu]:
    """Those that the missing ones are, or lead back to: others were not asked for."""
    connected: dict[EventId, Pdu] = {}
    pending = [event_id for event_id in missing if event_id in new]
    while pending:
        event_id = pending.pop()
        if event_id not in connected:
            connected[event_id] = new[event_id]
            pending += [each for each in new[event_id].prev_events if each in new]
    return connected
