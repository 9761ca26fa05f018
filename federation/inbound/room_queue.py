"""One queue for each room, so that one bad or slow room holds up no other.

Events are taken in one after another in each room, and the rooms side by side. One that builds on what is not here leaves the
queue; events that follow it are parked until it is there. What is missing is mostly on its way, sent a moment before by a server
that is heard later: so the event lingers first. Then other servers are asked, for few events of a room at a time: what they tell
is mostly what the others lack, too. (Without that a room with many servers, a hundred events a second and one late event made
dozens of servers be asked for the same, which made more events late.)

What is not dealt with in a moment is *staged*, that is written to a table, before the server that sent it is told that we have
it; after a crash it is read from there. The table is also where a queue goes on that is too long for memory. So memory is
bounded by the number of queued events, the disk by their bytes, and what goes beyond that is refused: later events lead back
to it.

Rejected: staging every event first (one more commit before each, and nearly all are done with in milliseconds).
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Final, Protocol

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred

from federation.inbound.acl import ServerAcls
from federation.inbound.fetching import NotFetched
from federation.inbound.pdu_checks import PduChecks
from federation.inbound.queued import Queued
from homeserver.matrix.canonical import decode_json, encode_json
from homeserver.matrix.errors import MatrixError, NotFound
from homeserver.matrix.ids import EventId, RoomId, ServerName
from homeserver.matrix.pdu import Pdu
from homeserver.rooms.heads import RoomHeads
from homeserver.rooms.ingest_errors import MissingEvents
from homeserver.runtime.clock import Clock
from homeserver.runtime.coroutine import within
from homeserver.runtime.db import Database, DatabaseFault
from homeserver.store.staged_pdus import (
    StagedPdu,
    delete_staged_pdus,
    load_staged_pdus,
    load_staged_rooms,
    save_staged_pdus,
)

logger = logging.getLogger(__name__)

MAX_QUEUED_OF_ROOM: Final = 100
# How many are taken in at once: they share reads and commits.
MAX_TOGETHER: Final = 50
MAX_QUEUED: Final = 3_000
MAX_STAGED_BYTES_OF_ROOM: Final = 64 * 1024 * 1024
MAX_STAGED_BYTES: Final = 1024 * 1024 * 1024
MAX_ROOMS_AT_ONCE: Final = 200
STEP_TIMEOUT_MS: Final = 300_000
# When what comes before an event can't be had, or our database fails: how long until it is tried again.
RETRY_AFTER_MS: Final = (5_000, 60_000, 600_000)
FORGET_AFTER_MS: Final = 200
# How long an event waits for those that it builds on before other servers are asked; and for how many of a room they are asked
# at a time, each for an event of another origin.
LINGER_MS: Final = 300
MAX_ASKED_OF_ROOM: Final = 10
STOP_TIMEOUT_MS: Final = 3_000


class Busy(MatrixError):
    """Too much waits already."""

    status = 503

    def __init__(self) -> None:
        super().__init__("Too many events of this room wait to be dealt with")


class Receiver(Protocol):
    """receive_pdu.PduReceiver."""

    async def receive_at_once(self, pdus: Sequence[Pdu], /) -> list[bool | Exception]: ...

    async def receive_after_gap(self, pdu: Pdu, origin: ServerName, /) -> None: ...


@define(eq=False)
class _Room:
    """Events in memory and in the table.

    queued: what waits for its turn. away: what waits for other servers, lingers, or is parked because of that. parked: what waits
    for each event. waits_for: the same, by who waits. asked: the origins of the events for which other servers are asked.
    to_ask: what waits for that. kept: all of these by number, and what is tried again later, or is done but not yet deleted
    from the table. held: what is still being checked, by number. on_disk: whether the table may hold more.
    """

    room_id: RoomId
    queued: OrderedDict[EventId, Queued] = field(factory=OrderedDict)
    away: dict[EventId, Deferred[None] | None] = field(factory=dict)
    parked: dict[EventId, list[Queued]] = field(factory=dict)
    waits_for: dict[EventId, EventId] = field(factory=dict)
    asked: set[ServerName] = field(factory=set)
    to_ask: list[Queued] = field(factory=list)
    kept: dict[int, Queued] = field(factory=dict)
    held: dict[int, Queued] = field(factory=dict)
    on_disk: bool = False
    writes: int = 0  # how often something was put into the table that is not in memory
    staged_bytes: int = 0
    working: Deferred[None] | None = None

    def park(self, queued: Queued, awaited: EventId) -> None:
        self.away.setdefault(queued.pdu.event_id, None)
        self.waits_for[queued.pdu.event_id] = awaited
        self.parked.setdefault(awaited, []).append(queued)

    def leads_to(self, event_id: EventId, queued: Queued) -> bool:
        """Whether the event waits for this one: servers that choose ids can make events name each other."""
        seen: set[EventId] = set()
        while event_id in self.waits_for and event_id not in seen:
            seen.add(event_id)
            event_id = self.waits_for[event_id]
        return event_id == queued.pdu.event_id


@define(eq=False)
class RoomQueues:
    """The queues of all rooms."""

    clock: Clock
    database: Database
    heads: RoomHeads
    acls: ServerAcls
    checks: PduChecks
    receiver: Receiver
    _rooms: dict[RoomId, _Room] = field(init=False, factory=dict)
    _waiting_rooms: OrderedDict[RoomId, _Room] = field(init=False, factory=OrderedDict)
    working: int = field(init=False, default=0)
    asking: int = field(init=False, default=0)
    _queued: int = field(init=False, default=0)
    _staged_bytes: int = field(init=False, default=0)
    _number: int = field(init=False, default=0)
    _done: list[tuple[_Room, Queued]] = field(init=False, factory=list)
    _forgetting: Any = field(init=False, default=None)
    _retries: set[Any] = field(init=False, factory=set)
    _stopping: bool = field(init=False, default=False)
    _idle: list[Deferred[None]] = field(init=False, factory=list)

    # -- life ----------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Go on with what was left."""
        for left in await self.database.read(load_staged_rooms):
            room = self._room(left.room_id)
            room.on_disk, room.staged_bytes = True, left.size_bytes
            self._staged_bytes += left.size_bytes
            self._wake(room)

    async def stop(self) -> None:
        """Events that are worked on are finished, if that takes no long; others wait in the table for the next start."""
        self._stopping = True
        for call in [*self._retries, *filter(None, [self._forgetting])]:
            call.cancel()
        self._retries.clear()
        self._forgetting = None
        if not self.is_idle:
            hurry: Any = self.clock.call_later(STOP_TIMEOUT_MS, self._cancel_all)
            idle: Deferred[None] = Deferred()
            self._idle.append(idle)
            await idle
            if hurry.active():
                hurry.cancel()
        await self._forget()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is worked on."""
        return not self.working and not self.asking

    def _cancel_all(self) -> None:
        for room in list(self._rooms.values()):
            for running in [room.working, *room.away.values()]:
                if running is not None:
                    running.cancel()

    def _tell_if_idle(self) -> None:
        if self._stopping and self.is_idle:
            for idle in self._idle:
                idle.callback(None)
            self._idle.clear()

    # -- what comes in -------------------------------------------------------------------------------------------------

    def add(self, events: Iterable[tuple[Pdu, object]], origin: ServerName) -> list[Queued | None]:
        """Queue events, each with what was sent; None for those for which there is no place in memory."""
        places = [self._add(pdu, origin, raw) for pdu, raw in events]
        for room_id in {place.pdu.room_id for place in places if place is not None}:
            self._wake(self._room(room_id))
        return places

    def _add(self, pdu: Pdu, origin: ServerName, raw: object) -> Queued | None:
        room = self._room(pdu.room_id)
        known = room.queued.get(pdu.event_id)
        if known is not None:
            return known
        if room.on_disk or len(room.kept) >= MAX_QUEUED_OF_ROOM or self._queued >= MAX_QUEUED or self._stopping:
            return None
        return self._enqueue(room, Queued(pdu, origin, raw, self._next_number()))

    def hold(self, events: Iterable[tuple[Pdu, object]], origin: ServerName) -> list[Queued]:
        """Events of which only the format is checked. They may be staged, and come to the queue when they are released."""
        held = [Queued(pdu, origin, raw, self._next_number()) for pdu, raw in events]
        for queued in held:
            self._room(queued.pdu.room_id).held[queued.number] = queued
        return held

    def release(self, queued: Queued, pdu: Pdu) -> None:
        """A held event was checked; pdu: as the check gives it."""
        room = self._room(pdu.room_id)
        del room.held[queued.number]
        queued.pdu = pdu
        self._enqueue(room, queued)
        self._wake(room)

    def drop(self, queued: Queued, error: str | None) -> None:
        """A held event is not valid, or is dealt with."""
        room = self._room(queued.pdu.room_id)
        room.kept[queued.number] = room.held.pop(queued.number)
        self._queued += 1
        queued.finish(error)
        self._on_done(room, queued)

    def hand_over(self, queued: Queued) -> None:
        """A held event can't be checked now: this is done when it is read from the table, if it is there."""
        room = self._room(queued.pdu.room_id)
        del room.held[queued.number]
        room.on_disk, room.writes = True, room.writes + 1
        self._call_later(RETRY_AFTER_MS[0], lambda: self._wake(room))

    async def stage(self, waiting: Iterable[Queued], others: Iterable[tuple[RoomId, ServerName, object]]) -> list[bool]:
        """Write down what is not done, and what found no place in memory; of the latter, which ones were taken."""
        # The same event may be there twice.
        undone = [each for each in dict.fromkeys(waiting) if not each.done and not each.staged_bytes]
        rows = [self._row(self._room(each.pdu.room_id), each.number, each.origin, each.raw) for each in undone]
        for queued, row in zip(undone, rows, strict=True):
            queued.staged_bytes, queued.staging = len(row.json), True
        taken, rooms = [], []
        for room_id, origin, raw in others:
            room = self._room(room_id)
            may = room.staged_bytes < MAX_STAGED_BYTES_OF_ROOM and self._staged_bytes < MAX_STAGED_BYTES
            taken.append(may)
            if may:
                rows.append(self._row(room, self._next_number(), origin, raw))
                rooms.append(room)
        try:
            if rows:
                await self.database.run(save_staged_pdus, rows)
        except Exception:
            self._unstage(rows, undone)
            raise
        finally:
            for queued in undone:
                queued.staging = False
        for room in rooms:
            room.on_disk, room.writes = True, room.writes + 1
            self._rooms[room.room_id] = room
            self._wake(room)
        return taken

    def _unstage(self, rows: Iterable[StagedPdu], undone: Iterable[Queued]) -> None:
        """They could not be written."""
        for row in rows:
            room = self._room(RoomId(row.room_id))
            self._free(room, len(row.json))
            self._drop_if_empty(room)
        for queued in undone:
            queued.staged_bytes = 0

    def _row(self, room: _Room, number: int, origin: ServerName, raw: object) -> StagedPdu:
        row = StagedPdu(room.room_id, number, origin, encode_json(raw), self.clock.time_ms())
        room.staged_bytes += len(row.json)
        self._staged_bytes += len(row.json)
        return row

    def _next_number(self) -> int:
        self._number = max(self._number + 1, self.clock.time_ms() * 1000)
        return self._number

    def _room(self, room_id: RoomId) -> _Room:
        return self._rooms.setdefault(room_id, _Room(room_id))

    def _enqueue(self, room: _Room, queued: Queued) -> Queued:
        room.kept[queued.number] = queued
        self._queued += 1
        self._line_up(room, queued)
        return queued

    def _line_up(self, room: _Room, queued: Queued) -> None:
        known = room.queued.setdefault(queued.pdu.event_id, queued)
        if known is not queued:
            known.twins.append(queued)

    # -- the workers ---------------------------------------------------------------------------------------------------

    def _wake(self, room: _Room) -> None:
        if room.working is not None or self._stopping:
            return
        if self.working >= MAX_ROOMS_AT_ONCE:
            self._waiting_rooms[room.room_id] = room
            return
        self.working += 1
        room.working = Deferred()  # should it end at once
        working = Deferred.fromCoroutine(self._work(room))
        room.working = working
        working.addBoth(self._on_end, room)

    def _on_end(self, failure: Any, room: _Room) -> None:
        room.working = None
        self.working -= 1
        if failure is not None:
            logger.error("The queue of %s broke off", room.room_id, exc_info=(failure.type, failure.value, failure.tb))
            self._call_later(RETRY_AFTER_MS[0], lambda: self._wake(room))
        self._drop_if_empty(room)
        self._tell_if_idle()
        if self._waiting_rooms:
            self._wake(self._waiting_rooms.popitem(last=False)[1])

    def _drop_if_empty(self, room: _Room) -> None:
        if not room.kept and not room.held and not room.on_disk and room.working is None:
            self._rooms.pop(room.room_id, None)

    async def _work(self, room: _Room) -> None:
        while not self._stopping:
            together = self._next_together(room)
            if together:
                await self._take_in(room, together)
            elif room.on_disk:
                await self._read_on(room)
            else:
                return

    def _next_together(self, room: _Room) -> list[Queued]:
        """Each behind those of the others that it builds on."""
        together: list[Queued] = []
        while len(together) < MAX_TOGETHER and (queued := _next(room.queued)) is not None:
            del room.queued[queued.pdu.event_id]
            if not self._park(room, queued):
                together.append(queued)
        return together

    def _park(self, room: _Room, queued: Queued) -> bool:
        """Whether the event has to wait for others that are asked for."""
        prev_events = queued.pdu.prev_events
        awaited = next((each for each in prev_events if each in room.away and not room.leads_to(each, queued)), None)
        if awaited is not None:
            room.park(queued, awaited)
        return awaited is not None

    async def _take_in(self, room: _Room, together: Sequence[Queued]) -> None:
        outcomes: Sequence[bool | Exception]
        try:
            receiving = self.receiver.receive_at_once([queued.pdu for queued in together])
            outcomes = await within(self.clock, STEP_TIMEOUT_MS, receiving)
        except Exception as error:
            outcomes = [error] * len(together)
        for queued, outcome in zip(together, outcomes, strict=True):
            if outcome is not False and not isinstance(outcome, MissingEvents):
                self._conclude(room, queued, outcome if isinstance(outcome, Exception) else None)
                self._unpark(room, queued.pdu.event_id)
            elif not self._stopping and not self._park(room, queued):
                missing = outcome.ids if isinstance(outcome, MissingEvents) else ()
                if not self._linger(room, queued, missing):
                    self._ask(room, queued)

    # -- what builds on missing events ---------------------------------------------------------------------------------

    def _linger(self, room: _Room, queued: Queued, missing: Collection[EventId]) -> bool:
        """Whether there is time left to wait for one that is missing; then for the next one."""
        now_ms = self.clock.time_ms()
        if queued.lingers_until_ms is None:
            queued.lingers_until_ms = now_ms + LINGER_MS
        left_ms = queued.lingers_until_ms - now_ms
        awaited = min(missing, default=None)
        if left_ms <= 0 or awaited is None:
            return False
        room.park(queued, awaited)
        self._call_later(left_ms, lambda: self._end_lingering(room, queued, awaited))
        return True

    def _end_lingering(self, room: _Room, queued: Queued, awaited: EventId) -> None:
        parked = room.parked.get(awaited, [])
        if queued in parked:
            parked.remove(queued)
            if not parked:
                del room.parked[awaited]
            self._queue_again(room, [queued])

    def _queue_again(self, room: _Room, again: Iterable[Queued]) -> None:
        for queued in again:
            room.away.pop(queued.pdu.event_id, None)
            room.waits_for.pop(queued.pdu.event_id, None)
            self._line_up(room, queued)
        self._wake(room)

    def _unpark(self, room: _Room, event_id: EventId) -> None:
        self._queue_again(room, room.parked.pop(event_id, ()))

    def _ask(self, room: _Room, queued: Queued) -> None:
        room.away[queued.pdu.event_id] = None
        if queued.origin in room.asked or len(room.asked) >= MAX_ASKED_OF_ROOM:
            room.to_ask.append(queued)
            return
        asking = Deferred.fromCoroutine(self._ask_others(room, queued))
        if not asking.called:
            room.away[queued.pdu.event_id] = asking

    async def _ask_others(self, room: _Room, queued: Queued) -> None:
        self.asking += 1
        room.asked.add(queued.origin)
        try:
            await within(self.clock, STEP_TIMEOUT_MS, self.receiver.receive_after_gap(queued.pdu, queued.origin))
        except Exception as error:
            self._conclude(room, queued, error)
        else:
            self._conclude(room, queued, None)
        finally:
            self.asking -= 1
            room.asked.discard(queued.origin)
            room.away.pop(queued.pdu.event_id, None)
            self._unpark(room, queued.pdu.event_id)
            # What they lack may have come by now.
            waiting, room.to_ask = room.to_ask, []
            self._queue_again(room, waiting)
            self._tell_if_idle()

    def _conclude(self, room: _Room, queued: Queued, error: Exception | None) -> None:
        """The event was taken in, or will not be, or is tried again later."""
        if isinstance(error, CancelledError):
            return  # the server stops; the table has the event
        if isinstance(error, DatabaseFault):
            logger.error("%s from %s waits for the database", queued.pdu, queued.origin, exc_info=error)
            self._try_again(room, queued)
        elif isinstance(error, NotFetched | TimeoutError) and self._may_try_again(room, queued):
            self._try_again(room, queued)
        else:
            _finish(queued, error)
            self._on_done(room, queued)

    def _may_try_again(self, room: _Room, queued: Queued) -> bool:
        return queued.attempts < len(RETRY_AFTER_MS) and len(room.kept) <= MAX_QUEUED_OF_ROOM

    def _try_again(self, room: _Room, queued: Queued) -> None:
        delay_ms = RETRY_AFTER_MS[min(queued.attempts, len(RETRY_AFTER_MS) - 1)]
        queued.attempts += 1

        def again() -> None:
            self._line_up(room, queued)
            self._rooms[room.room_id] = room
            self._wake(room)

        self._call_later(delay_ms, again)

    def _call_later(self, delay_ms: int, call: Callable[[], object]) -> None:
        """Unless the server stops before."""
        if self._stopping:
            return

        def on_time() -> None:
            self._retries.discard(timer)
            call()

        timer: Any = self.clock.call_later(delay_ms, on_time)
        self._retries.add(timer)

    async def _read_on(self, room: _Room) -> None:
        """The next events from the table."""
        await self._forget()
        writes = room.writes
        in_memory = len(room.kept) + len(room.held)
        rows = await self.database.read(load_staged_pdus, room.room_id, MAX_QUEUED_OF_ROOM + in_memory)
        new = [row for row in rows if row.number not in room.kept and row.number not in room.held][:MAX_QUEUED_OF_ROOM]
        if not new:
            room.on_disk = room.writes != writes
            return
        for row, pdu in await self._check_staged(room.room_id, new):
            queued = Queued(pdu, ServerName(row.origin), None, row.number, len(row.json))
            self._enqueue(room, queued)

    async def _check_staged(self, room_id: RoomId, rows: Sequence[StagedPdu]) -> list[tuple[StagedPdu, Pdu]]:
        """The valid ones; the others are deleted."""
        try:
            head = await self.heads.load(room_id)
        except NotFound:
            checked: list[Any] = [None] * len(rows)
        else:
            raws = [decode_json(row.json) for row in rows]
            checked = await self.checks.check_each(raws, head.version, room_id=room_id)
            origins = {ServerName(row.origin) for row in rows}
            allowed = {origin for origin in origins if await self.acls.is_allowed_by(head, origin)}
            checked = [pdu if row.origin in allowed else None for row, pdu in zip(rows, checked, strict=True)]
        valid = [(row, pdu) for row, pdu in zip(rows, checked, strict=True) if isinstance(pdu, Pdu)]
        invalid = [row for row, pdu in zip(rows, checked, strict=True) if not isinstance(pdu, Pdu)]
        if invalid:
            logger.info("%d events of %s that waited are dropped", len(invalid), room_id)
            await self.database.run(delete_staged_pdus, [(row.room_id, row.number) for row in invalid])
            self._free(self._room(room_id), sum(len(row.json) for row in invalid))
        return valid

    # -- what is done --------------------------------------------------------------------------------------------------

    def _on_done(self, room: _Room, queued: Queued) -> None:
        self._queued -= 1
        self._done.append((room, queued))
        for twin in queued.twins:
            twin.finish(queued.error)
            self._on_done(room, twin)
        queued.twins.clear()
        self._forget_in(FORGET_AFTER_MS)

    def _forget_in(self, delay_ms: int) -> None:
        if not self._stopping and self._forgetting is None:
            self._forgetting = self.clock.call_later(delay_ms, self._forget_on_time)

    def _forget_on_time(self) -> None:
        self._forgetting = None
        Deferred.fromCoroutine(self._forget()).addErrback(_log_failure)

    async def _forget(self) -> None:
        """Delete from the table what is done."""
        done = [each for each in self._done if not each[1].staging]
        self._done = [each for each in self._done if each[1].staging]
        staged = [(room.room_id, queued.number) for room, queued in done if queued.staged_bytes]
        if staged:
            try:
                await self.database.run(delete_staged_pdus, staged)
            except DatabaseFault:
                self._done += done
                self._forget_in(RETRY_AFTER_MS[0])
                raise
        for room, queued in done:
            room.kept.pop(queued.number, None)
            self._free(room, queued.staged_bytes)
            self._drop_if_empty(room)

    def _free(self, room: _Room, size_bytes: int) -> None:
        room.staged_bytes -= size_bytes
        self._staged_bytes -= size_bytes


def _finish(queued: Queued, error: Exception | None) -> None:
    match error:
        case None:
            queued.finish()
        case NotFetched() | TimeoutError():
            logger.info("%s from %s is given up: %s", queued.pdu, queued.origin, error)
            queued.finish(str(error))
        case MatrixError():
            logger.info("%s from %s is not taken in: %s", queued.pdu, queued.origin, error)
            queued.finish(str(error))
        case _:
            logger.error("%s from %s is not taken in", queued.pdu, queued.origin, exc_info=error)
            queued.finish("Internal server error")


def _next(queued: OrderedDict[EventId, Queued]) -> Queued | None:
    """The first, or one that comes before it in the room and waits as well."""
    if not queued:
        return None
    first = next(iter(queued.values()))
    seen = set()
    while first.pdu.event_id not in seen:
        seen.add(first.pdu.event_id)
        first = next((queued[each] for each in first.pdu.prev_events if each in queued and each not in seen), first)
    return first


def _log_failure(failure: Any) -> None:
    logger.error("Staged events can't be deleted", exc_info=(failure.type, failure.value, failure.tb))
