"""One event from another server, from its checks to the room.

The events before it that this server lacks come first:

1. What was missed lately is asked for with get_missing_events, backwards from the event, in a bounded number of rounds.
2. Where a gap remains (an outage was long), the events right after it are taken in at the state that another server says was
   there. Ingest resolves it with the states that we know; so an event with one known and one missing parent can't replace what
   we have, and one whose parents are all missing forks off the room as it is here.
3. What lies in the gap is history, fetched when somebody reads back so far.

Auth events that are missing are fetched with their chains and stored as outliers.

Spec: server-server-api#checks-performed-on-receipt-of-a-pdu
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Final

from attrs import define, field

from federation.client import V1, FederationClient, quote_path
from federation.errors import RemoteRefused, RemoteUnreachable
from federation.inbound.fetching import FETCH_TIMEOUT_MS, Fetcher, NotFetched, sort_by_prev
from federation.inbound.pdu_checks import PduChecks
from federation.inbound.policy import PolicyServers
from federation.inbound.slots import Slots
from homeserver.matrix.errors import BadJson
from homeserver.matrix.ids import EventId, ServerName, domain_of
from homeserver.matrix.limits import MAX_SAFE_INTEGER
from homeserver.matrix.pdu import Pdu
from homeserver.matrix.state_map import StateKey
from homeserver.rooms.head import RoomHead
from homeserver.rooms.heads import RoomHeads
from homeserver.rooms.ingest import Ingest
from homeserver.rooms.ingest_errors import MissingEvents
from homeserver.runtime.clock import Clock
from homeserver.runtime.coroutine import within

logger = logging.getLogger(__name__)

MISSING_PER_ROUND: Final = 20
MAX_ROUNDS: Final = 10
MAX_MISSING: Final = 200
MAX_MISSING_BYTES: Final = 4 * 1024 * 1024
# How often a state is fetched for one event: there may be several gaps before it.
MAX_STATES: Final = 10
MAX_GAPS: Final = 50
MAX_GAPS_FOR_ORIGIN: Final = 3
GAP_TIMEOUT_MS: Final = 120_000
MAX_EARLIEST: Final = 20
MAX_SERVERS: Final = 4


@define(eq=False)
class PduReceiver:
    """Takes events in whose format, signatures and hashes were checked."""

    server_name: ServerName
    client: FederationClient
    checks: PduChecks
    fetcher: Fetcher
    policies: PolicyServers
    ingest: Ingest
    heads: RoomHeads
    clock: Clock
    _gaps: Slots = field(init=False, factory=lambda: Slots(MAX_GAPS, MAX_GAPS_FOR_ORIGIN))

    async def receive(self, pdu: Pdu, origin: ServerName) -> None:
        """Take the event in, accepted or not, and before it what it builds on.

        Raises: as receive_after_gap.
        """
        (outcome,) = await self.receive_at_once([pdu])
        if outcome is False or isinstance(outcome, MissingEvents):
            await self.receive_after_gap(pdu, origin)
        elif isinstance(outcome, Exception):
            raise outcome

    async def receive_at_once(self, pdus: Sequence[Pdu]) -> list[bool | Exception]:
        """Take events of one room in, accepted or not, each behind those of the others that it builds on. False, or
        MissingEvents, for those for which other servers have to be asked.

        Raises: NotFound, if the room is unknown.
        """
        outcomes: list[bool | Exception] = []
        for together in await self.policies.split(pdus):
            outcomes += await self._receive_together(together)
        return outcomes

    async def _receive_together(self, pdus: Sequence[Pdu]) -> list[bool | Exception]:
        recommended = [pdu for pdu in pdus if await self.policies.is_recommended(pdu)]
        received = await self.ingest.receive_many(recommended) if recommended else []
        outcomes: dict[EventId, bool | Exception] = {
            pdu.event_id: outcome if isinstance(outcome, Exception) else True
            for pdu, outcome in zip(recommended, received, strict=True)
        }
        return [outcomes.get(pdu.event_id, False) for pdu in pdus]

    async def receive_after_gap(self, pdu: Pdu, origin: ServerName) -> None:
        """Take the event in, and before it what it builds on.

        Raises: NotFetched, if that can't be had now; BadJson, if it has no beginning; NotFound, if the room is unknown.
        """
        async with self._gaps.hold(origin):
            try:
                await within(self.clock, GAP_TIMEOUT_MS, self._fill_gap(pdu, origin))
            except TimeoutError:
                raise NotFetched(f"What comes before {pdu.event_id} takes too long to be had") from None

    async def _take_in(self, pdu: Pdu, servers: Sequence[ServerName], states: Iterator[int]) -> None:
        """Where prev events are missing still, at the state that a server tells. Raises: NotFetched."""
        missing = await self._missing_prev_events([pdu])
        if missing is None:
            return
        state: Mapping[StateKey, EventId] | None = None
        if missing:
            if next(states, None) is None:
                raise NotFetched(f"There are too many gaps before {pdu.event_id}")
            at = await self.fetcher.fetch_state_at(pdu, servers)
            state = at.state
            await self._store_outliers(at.unknown)
        await self._store_outliers(await self.fetcher.fetch_auth_chain([pdu], servers))
        pdu, unwanted = await self.policies.ask(pdu)
        try:
            await self.ingest.receive(pdu, state_before=state, unwanted=unwanted)
        except MissingEvents as error:
            raise NotFetched(error.error) from None

    async def _store_outliers(self, pdus: Sequence[Pdu]) -> None:
        if pdus:
            await self.ingest.store_outliers(pdus[0].version, pdus)

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
        found = await self._fetch_missing(head, pdu, servers)
        ordered = sort_by_prev([*found, pdu])
        if pdu not in ordered:
            raise BadJson(f"{pdu.event_id} comes before itself")
        states = iter(range(MAX_STATES))
        # PERF: most lack nothing now, and share reads and commits.
        for each, outcome in zip(ordered, await self.receive_at_once(ordered), strict=True):
            if outcome is False or isinstance(outcome, MissingEvents):
                await self._take_in(each, servers, states)
            elif isinstance(outcome, Exception):
                raise outcome

    async def _fetch_missing(self, head: RoomHead, pdu: Pdu, servers: Sequence[ServerName]) -> list[Pdu]:
        """The events between ours and this one, as far as they are to be had so; none that are older than all of ours."""
        found: dict[EventId, Pdu] = {}
        min_depth = await self._load_min_depth(head)
        missing = await self._missing_before(found, pdu)
        for _ in range(MAX_ROUNDS):
            if not missing or len(found) >= MAX_MISSING:
                break
            latest = [each.event_id for each in [*found.values(), pdu] if missing.intersection(each.prev_events)]
            fetched = await self._get_missing_events(head, latest[:MISSING_PER_ROUND], min_depth, servers)
            newer = [each for each in fetched if each.depth >= min_depth and each.prev_events]
            new = {each.event_id: each for each in newer if each.event_id not in found and each != pdu}
            if missing.isdisjoint(new):
                break
            found.update(_connected(new, missing))
            missing = await self._missing_before(found, pdu)
        return list(found.values())

    async def _load_min_depth(self, head: RoomHead) -> int:
        """How deep the room's history is at its beginning here. What is not as deep came before this server joined: it is no
        news, but comes by /backfill where somebody reads so far."""
        create_id = head.create.event_id
        facts = await self.fetcher.load_facts(head.room_id, [create_id])
        return (
            0 if create_id in facts and facts[create_id].has_state else await self.fetcher.load_min_depth(head.room_id)
        )

    async def _missing_before(self, found: Mapping[EventId, Pdu], pdu: Pdu) -> set[EventId]:
        missing = await self._missing_prev_events([*found.values(), pdu, pdu])
        assert missing is not None
        return missing.difference(found, [pdu.event_id])

    async def _get_missing_events(
        self, head: RoomHead, latest: Sequence[EventId], min_depth: int, servers: Sequence[ServerName]
    ) -> list[Pdu]:
        """From the first server that knows any."""
        path = quote_path(V1 + "/get_missing_events", head.room_id)
        body = {
            "earliest_events": list(head.extremities[:MAX_EARLIEST]),
            "latest_events": list(latest),
            "limit": MISSING_PER_ROUND,
            "min_depth": min(min_depth, MAX_SAFE_INTEGER),  # depths of old rooms may be beyond what JSON holds
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
