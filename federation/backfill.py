"""History that this server lacks, from servers that have it, when somebody reads back so far.

A gap is an event whose prev_events are not stored: the join by which this server came into the room, the first event after a long
outage, the oldest event of what was fetched before. Readers wait for a gap to be filled, but not for long: the work goes on
without them, done once for all who wait, and the next page has it. A gap that nobody could fill is left alone for a while.

Spec: server-server-api#backfilling-and-retrieving-missing-events
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Final

from attrs import define, field
from twisted.internet.defer import DeferredSemaphore

from federation.bounded import Bounded
from federation.client import V1, FederationClient, Query, quote_path
from federation.errors import BadAnswer, RemoteRefused, RemoteUnreachable
from federation.history_intake import HistoryIntake
from federation.joining.ports import EventChecks
from homeserver.matrix.errors import MatrixError
from homeserver.matrix.ids import EventId, RoomId, ServerName, domain_of
from homeserver.matrix.pdu import Pdu
from homeserver.rooms.head import RoomHead
from homeserver.rooms.heads import RoomHeads
from homeserver.rooms.partial_states import PartialStates
from homeserver.rooms.ports import Filled
from homeserver.runtime.clock import Clock
from homeserver.runtime.coroutine import SingleFlight, within
from homeserver.runtime.db import Database
from homeserver.store.history_gaps import HIGHEST, LOWEST, HistoryGap, load_gap, load_in_timeline, load_missing_before

logger = logging.getLogger(__name__)

PAGE: Final = 100
BUDGET_MS: Final = 8_000
REQUEST_TIMEOUT_MS: Final = 15_000
MAX_BYTES: Final = 16 * 1024 * 1024
MAX_SERVERS: Final = 4
MAX_MISSING: Final = 20
MAX_RUNNING: Final = 10
FAILED_MS: Final = 5 * 60_000
UNREACHED_MS: Final = 30_000
FAILURES_KEPT: Final = 5_000
NEAREST_ROUNDS: Final = 8


@define(eq=False)
class Backfill:
    """OlderHistory of rooms that this server shares with others."""

    server_name: ServerName
    client: FederationClient
    checks: EventChecks
    intake: HistoryIntake
    heads: RoomHeads
    database: Database
    clock: Clock
    partial: PartialStates
    _filling: SingleFlight[Filled] = field(init=False, factory=SingleFlight)
    _slots: DeferredSemaphore = field(init=False, factory=lambda: DeferredSemaphore(MAX_RUNNING))
    # What came of it when it was last tried in vain, and until when that is not tried again.
    _failed: Bounded[tuple[RoomId, EventId], tuple[Filled, int]] = field(
        init=False, factory=lambda: Bounded(FAILURES_KEPT)
    )

    async def fill(self, gap: HistoryGap, limit: int) -> Filled:
        """See OlderHistory."""
        failed = self._get_failed(gap.room_id, gap.event_id)
        if failed is not None:
            return failed
        try:
            return await within(self.clock, BUDGET_MS, self._fill_once(gap.room_id, gap, limit))
        except TimeoutError:
            return Filled.UNREACHED

    async def fetch_nearest(
        self, room_id: RoomId, ts_ms: int, known: tuple[EventId, int] | None, *, forwards: bool
    ) -> None:
        """See OlderHistory."""
        if await self.database.read(load_gap, room_id, LOWEST, HIGHEST) is None:
            return
        try:
            await within(self.clock, BUDGET_MS, self._fetch_nearest(room_id, ts_ms, known, forwards))
        except TimeoutError:
            return

    async def fetch_event(self, room_id: RoomId, event_id: EventId) -> None:
        """See OlderHistory. What nobody gives, or lies too far back, is not asked for again for a while."""
        if self._get_failed(room_id, event_id) is not None:
            return
        if await self.database.read(load_gap, room_id, LOWEST, HIGHEST) is None:
            return
        try:
            await within(self.clock, BUDGET_MS, self._fetch_event(room_id, event_id))
        except (TimeoutError, MatrixError) as error:
            logger.info("%s of %s can't be fetched: %s", event_id, room_id, error)

    # -- one gap -------------------------------------------------------------------------------------------------------

    def _get_failed(self, room_id: RoomId, event_id: EventId) -> Filled | None:
        """What came of it, while it is not to be tried again."""
        outcome, until_ms = self._failed.get((room_id, event_id)) or (None, 0)
        return outcome if self.clock.time_ms() < until_ms else None

    def _note_failed(self, room_id: RoomId, event_id: EventId, outcome: Filled) -> None:
        wait_ms = UNREACHED_MS if outcome is Filled.UNREACHED else FAILED_MS
        self._failed.put((room_id, event_id), (outcome, self.clock.time_ms() + wait_ms))

    async def _fill_once(self, room_id: RoomId, gap: HistoryGap, limit: int) -> Filled:
        return await self._filling.do((room_id, gap.event_id), lambda: self._fill(room_id, gap, limit))

    async def _fill(self, room_id: RoomId, gap: HistoryGap, limit: int) -> Filled:
        """Raises nothing."""
        outcome = Filled.NOTHING
        await self._slots.acquire()
        try:
            if await self.database.read(load_missing_before, room_id, gap.event_id) != set(gap.missing):
                return Filled.NEW  # somebody was faster
            outcome = await self._fill_from_any(room_id, gap, max(limit, PAGE))
        except MatrixError as error:
            logger.info("History of %s can't be fetched: %s", room_id, error)
        except Exception:
            logger.exception("History of %s can't be fetched", room_id)
            outcome = Filled.UNREACHED
        finally:
            self._slots.release()
        if outcome is not Filled.NEW:
            self._note_failed(room_id, gap.event_id, outcome)
        return outcome

    async def _fill_from_any(self, room_id: RoomId, gap: HistoryGap, limit: int) -> Filled:
        head = await self.heads.load(room_id)
        servers = self._servers(head)
        unreached = 0
        for server in servers:
            try:
                pdus = await self._fetch(server, head, gap, limit)
                if pdus and await self.intake.take(pdus, list(dict.fromkeys([server, *servers])), gap.event_id):
                    return Filled.NEW
            except (RemoteRefused, RemoteUnreachable, BadAnswer) as error:
                unreached += not isinstance(error, BadAnswer) and error.status >= 500
                logger.info("%s gives no history of %s: %s", server, room_id, error)
        return Filled.UNREACHED if servers and unreached == len(servers) else Filled.NOTHING

    async def _fetch(self, server: ServerName, head: RoomHead, gap: HistoryGap, limit: int) -> list[Pdu]:
        """What the server has of the missing events and what is before them.

        Spec: server-server-api#get_matrixfederationv1backfillroomid
        """
        query: Query = {"v": list(gap.missing[:MAX_MISSING]), "limit": min(limit, PAGE)}
        path = quote_path(f"{V1}/backfill", head.room_id)
        answer = await self.client.get(server, path, query, timeout_ms=REQUEST_TIMEOUT_MS, max_bytes=MAX_BYTES)
        raws = answer.get("pdus") if isinstance(answer, dict) else None
        if not isinstance(raws, list):
            raise BadAnswer(server, "there are no events in it")
        pdus = await self.checks.check_many(raws[: 2 * PAGE], head.version, room_id=head.room_id, source=server)
        there = await self.database.read(load_in_timeline, head.room_id, [pdu.event_id for pdu in pdus])
        # What is missing before those has its place before another gap.
        return connected([pdu for pdu in pdus if pdu.event_id not in there], gap.missing)

    # -- a moment ------------------------------------------------------------------------------------------------------

    async def _fetch_nearest(
        self, room_id: RoomId, ts_ms: int, known: tuple[EventId, int] | None, forwards: bool
    ) -> None:
        head = await self.heads.load(room_id)
        for server in self._servers(head):
            try:
                found = await self._ask_nearest(server, room_id, ts_ms, forwards)
            except (RemoteRefused, RemoteUnreachable, BadAnswer) as error:
                logger.info("%s does not know what is near %s in %s: %s", server, ts_ms, room_id, error)
                continue
            if known is None or abs(found[1] - ts_ms) < abs(known[1] - ts_ms):
                await self._reach(room_id, found[0])
            return

    async def _ask_nearest(
        self, server: ServerName, room_id: RoomId, ts_ms: int, forwards: bool
    ) -> tuple[EventId, int]:
        """Spec: server-server-api#get_matrixfederationv1timestamp_to_eventroomid"""
        query = {"ts": ts_ms, "dir": "f" if forwards else "b"}
        path = quote_path(f"{V1}/timestamp_to_event", room_id)
        answer = await self.client.get(server, path, query, timeout_ms=REQUEST_TIMEOUT_MS, max_bytes=MAX_BYTES)
        event_id = answer.get("event_id") if isinstance(answer, dict) else None
        at_ms = answer.get("origin_server_ts") if isinstance(answer, dict) else None
        if not isinstance(event_id, str) or "\0" in event_id or type(at_ms) is not int:
            raise BadAnswer(server, "it names no event")
        return EventId(event_id), at_ms

    async def _fetch_event(self, room_id: RoomId, event_id: EventId) -> None:
        """Only what another server has is worth filling gaps for. Raises: NotFetched."""
        head = await self.heads.load(room_id)
        servers = self._servers(head)
        self._note_failed(room_id, event_id, Filled.NOTHING)
        await self.intake.fetcher.fetch_event(event_id, room_id, head.version, servers)
        await self._reach(room_id, event_id)

    async def _reach(self, room_id: RoomId, event_id: EventId) -> None:
        """Fill gaps, the newest first, until the event is there, or no gap can be filled any more."""
        upto = HIGHEST
        for _ in range(NEAREST_ROUNDS):
            if await self.database.read(load_in_timeline, room_id, [event_id]):
                return
            gap = await self.database.read(load_gap, room_id, LOWEST, upto)
            if gap is None:
                return
            if await self._fill_once(room_id, gap, PAGE) is not Filled.NEW:
                upto = gap.order - 1

    def _servers(self, head: RoomHead) -> list[ServerName]:
        """Whom to ask; in a room whose members are not known yet also those that the join's answer named."""
        partial = self.partial.get(head.room_id)
        named = [server for server in partial.servers if server != self.server_name] if partial is not None else []
        return list(dict.fromkeys([*servers_with_history(head, self.server_name), *named]))[:MAX_SERVERS]


def servers_with_history(head: RoomHead, own: ServerName) -> list[ServerName]:
    """The other servers in the room: the creator's, those of its admins, then those with most members first."""
    members = Counter(domain_of(user_id) for user_id in head.joined_users())
    members.pop(own, None)
    levels = head.power_levels
    named = levels.users_with_power(1)
    admins = [domain_of(user) for user in sorted(named, key=lambda user: -named[user])]
    preferred = [domain_of(head.create.sender), *admins, *(server for server, _ in members.most_common())]
    return [server for server in dict.fromkeys(preferred) if server in members]


def connected(pdus: Sequence[Pdu], missing: Collection[EventId]) -> list[Pdu]:
    """Those of the events that are missing, or come before one that is: others were not asked for."""
    by_id = {pdu.event_id: pdu for pdu in pdus}
    found: dict[EventId, Pdu] = {}
    pending = [event_id for event_id in missing if event_id in by_id]
    while pending:
        event_id = pending.pop()
        if event_id not in found:
            found[event_id] = by_id[event_id]
            pending += [each for each in by_id[event_id].prev_events if each in by_id]
    return list(found.values())
