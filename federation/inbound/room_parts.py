"""What a transaction holds of each room: checked beside the other rooms' events, and on after the answer where that takes long.

To check an event may mean to fetch the key of a server that is dead. So each room's events go to its queue (room_queue.py) as
soon as they are checked, whatever becomes of the others. The answer waits a moment for the checks. Events whose checks take
longer are *held*: written to the table of staged events as they came, so that the answer may say that this server has them, and
the check goes on behind it. What the same server sends of that room later waits for them: its order is kept.

Of a room that this server is not in, nothing can be staged: of such events the answer says that they are not accepted, as far as
it can name them, and they count all the same if their check ends well. Where a join goes on, they wait for its end.

How much may be late is bounded, for each server and in all. The answer waits for what is beyond that; so a server that sends such
events holds up itself.

Rejected: leaving the check of what was written down to the room's queue. Then one server's events with dead signers would hold up
all that others send to the room.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Final

from attrs import define, field, frozen
from twisted.internet.defer import CancelledError, Deferred

from federation.inbound.acl import ServerAcls
from federation.inbound.outside import OutsideEnds
from federation.inbound.pdu_checks import PduChecks, Refusal, parse
from federation.inbound.queued import Queued
from federation.inbound.room_queue import RoomQueues
from homeserver.matrix.errors import InvalidParam, MatrixError, NotFound
from homeserver.matrix.ids import EventId, RoomId, ServerName, parse_room_id
from homeserver.matrix.pdu import Pdu
from homeserver.matrix.versions import RoomVersion
from homeserver.rooms.head import RoomHead
from homeserver.rooms.heads import RoomHeads
from homeserver.runtime.clock import Clock
from homeserver.runtime.coroutine import within

logger = logging.getLogger(__name__)

# How long the answer waits for checks, and then for events to be dealt with. A check that fetches a key from a server that is
# there takes less; so the answer tells mostly what is wrong with an event.
CHECKS_MOMENT_MS: Final = 2_000
MOMENT_MS: Final = 100
MAX_LATE_OF_ORIGIN: Final = 100
MAX_LATE: Final = 1_000

Outcomes = dict[EventId, str | None]


@frozen
class Settled:
    """An event that is dealt with already."""

    event_id: EventId


@define(eq=False)
class Part:
    """The events of one room in a transaction.

    after: what the server sent of the room before, if its check goes on. version: None until it is known, and where the room is
    not. is_late: the answer does not wait for it. held: then, by their places among `raws`, the events that are written down.
    outcomes: what is wrong with each event, None for those that are settled. queued: what is in the room's queue. refused: why
    events were.
    """

    origin: ServerName
    room_id: RoomId | None
    raws: Sequence[object]
    after: Part | None = None
    version: RoomVersion | None = None
    is_outside: bool = False
    is_checked: bool = False
    is_done: bool = False
    is_late: bool = False
    held: Mapping[int, Queued] = field(factory=dict)
    outcomes: Outcomes = field(factory=dict)
    queued: list[Queued] = field(factory=list)
    refused: Sequence[str] = ()
    failure: Exception | None = None
    running: Deferred[None] | None = None
    _waiting: list[Deferred[None]] = field(init=False, factory=list)

    async def wait(self) -> None:
        """Until all is checked, and queued or settled."""
        if not self.is_done:
            waiting: Deferred[None] = Deferred()
            self._waiting.append(waiting)
            await waiting

    def end(self) -> None:
        self.is_done = True
        for waiting in self._waiting:
            if not waiting.called:
                waiting.callback(None)
        self._waiting.clear()


@define(eq=False)
class RoomParts:
    """Takes the events of transactions to their rooms."""

    server_name: ServerName
    clock: Clock
    heads: RoomHeads
    acls: ServerAcls
    checks: PduChecks
    queues: RoomQueues
    outside: OutsideEnds
    _last: dict[tuple[ServerName, RoomId], Part] = field(init=False, factory=dict)
    _late: set[Part] = field(init=False, factory=set)

    async def stop(self) -> None:
        """Give up the checks that no answer waits for: the table has the events."""
        for part in list(self._late):
            if part.running is not None:
                part.running.cancel()

    async def receive(self, origin: ServerName, pdus: Sequence[object]) -> Outcomes:
        """What is wrong with each event, None for those that are accepted or not settled yet; those are staged."""
        parts = [self._begin(origin, room_id, raws) for room_id, raws in _by_room(pdus).items()]
        await self._wait_a_moment(CHECKS_MOMENT_MS, [part for part in parts if part.after is None])
        for part in parts:
            if not part.is_done and not self._leave(part):
                await part.wait()
            if part.failure is not None and not part.is_late:
                raise part.failure
        _log_refused([part for part in parts if not part.is_late])
        queued = [each for part in parts for each in part.queued]
        await self._wait_a_moment(MOMENT_MS, queued)
        await self.queues.stage([*queued, *(each for part in parts for each in part.held.values())], ())
        outcomes: Outcomes = {each.pdu.event_id: each.error for each in queued}
        for part in parts:
            outcomes.update(part.outcomes)
        return outcomes

    async def _wait_a_moment(self, moment_ms: int, awaited: Sequence[Part] | Sequence[Queued]) -> None:
        undone = [each for each in awaited if not (each.is_done if isinstance(each, Part) else each.done)]
        if undone:
            with suppress(TimeoutError):
                await within(self.clock, moment_ms, _wait_for(undone))

    # -- checks --------------------------------------------------------------------------------------------------------

    def _begin(self, origin: ServerName, room_id: RoomId | None, raws: Sequence[object]) -> Part:
        part = Part(origin, room_id, raws)
        if room_id is not None:
            part.after = self._last.get((origin, room_id))
            self._last[origin, room_id] = part
        part.running = Deferred.fromCoroutine(self._run(part))
        return part

    async def _run(self, part: Part) -> None:
        """Ends with the part done; raises nothing."""
        try:
            results = await self._check(part)
            part.is_checked = True
            part.refused = [each.error for each in results if isinstance(each, Refusal)]
            if part.is_late:
                _log_refused([part])
            if part.held:
                self._release(part, results)
            else:  # if late, then of a room that this server was not in
                await self._queue(part, results)
        except Exception as error:
            part.failure = error
            if part.is_late:
                self._hand_over(part, error)
        finally:
            self._late.discard(part)
            if part.room_id is not None and self._last.get((part.origin, part.room_id)) is part:
                del self._last[part.origin, part.room_id]
            part.end()

    async def _check(self, part: Part) -> Sequence[Pdu | Settled | Refusal]:
        """Whether the origin may send any event to the room, then each of them."""
        if part.room_id is None:
            return [Refusal(None, "room_id: missing from the event, or none")] * len(part.raws)
        if self.outside.arrivals.is_expected(part.room_id):
            part.is_outside = True  # as far as the answer is concerned
            await self.outside.arrivals.wait(part.room_id)
        head = await self._load_head(part, part.room_id)
        if part.after is not None:
            await part.after.wait()
            part.after = None
            head = await self._load_head(part, part.room_id)
        if head is not None and not await self.acls.is_allowed_by(head, part.origin):
            return [Refusal(_event_id(raw, part), "Server is banned from room") for raw in part.raws]
        if head is None or part.is_outside:
            return await self._receive_outside(part, part.room_id)
        return await self.checks.check_each(part.raws, head.version, room_id=part.room_id)

    async def _load_head(self, part: Part, room_id: RoomId) -> RoomHead | None:
        try:
            head = self.heads.get(room_id) or await self.heads.load(room_id)
        except NotFound:
            part.is_outside = True
            return None
        part.version, part.is_outside = head.version, not head.is_server_joined(self.server_name)
        return head

    async def _receive_outside(self, part: Part, room_id: RoomId) -> Sequence[Settled | Refusal]:
        """Of a room that this server is not in, or is in no more: all is done with them here."""
        results: list[Settled | Refusal] = []
        for raw in part.raws:
            result = await self.outside.receive(room_id, raw)
            if isinstance(result, Refusal):
                result = Refusal(result.event_id or _event_id(raw, part), result.error)
            results.append(Settled(result.event_id) if isinstance(result, Pdu) else result)
        return results

    async def _queue(self, part: Part, results: Sequence[Pdu | Settled | Refusal]) -> None:
        """What finds no place in memory is staged at once."""
        for each in results:
            if isinstance(each, Settled):
                part.outcomes[each.event_id] = None
            elif isinstance(each, Refusal) and each.event_id is not None:
                part.outcomes[each.event_id] = each.error
        events = [(each, raw) for each, raw in zip(results, part.raws, strict=True) if isinstance(each, Pdu)]
        places = self.queues.add(events, part.origin)
        part.queued = [place for place in places if place is not None]
        overflow = [event for event, place in zip(events, places, strict=True) if place is None]
        taken = await self.queues.stage((), [(pdu.room_id, part.origin, raw) for pdu, raw in overflow])
        for (pdu, _), is_taken in zip(overflow, taken, strict=True):
            part.outcomes[pdu.event_id] = None if is_taken else "Too many events of this room wait to be dealt with"

    # -- checks that take long -----------------------------------------------------------------------------------------

    def _leave(self, part: Part) -> bool:
        """Whether the answer need not wait for the part's checks; then its events are held."""
        late = [len(each.raws) for each in self._late]
        late_of_origin = [len(each.raws) for each in self._late if each.origin == part.origin]
        may = sum(late) < MAX_LATE and sum(late_of_origin) < MAX_LATE_OF_ORIGIN
        if part.is_checked or not may or (part.version is None and not part.is_outside):
            return False
        parsed = {place: pdu for place, raw in enumerate(part.raws) if (pdu := _parse(raw, part)) is not None}
        if part.is_outside:
            error = "It is not known yet whether this counts"
            part.outcomes.update((pdu.event_id, error) for pdu in parsed.values())
        else:
            events = [(pdu, part.raws[place]) for place, pdu in parsed.items()]
            part.held = dict(zip(parsed, self.queues.hold(events, part.origin), strict=True))
            part.outcomes.update((pdu.event_id, None) for pdu in parsed.values())
        part.is_late = True
        self._late.add(part)
        logger.info("%d events of %s from %s wait for their checks", len(part.raws), part.room_id, part.origin)
        return True

    def _release(self, part: Part, results: Sequence[Pdu | Settled | Refusal]) -> None:
        for place, queued in part.held.items():
            result = results[place]
            if isinstance(result, Pdu):
                self.queues.release(queued, result)
            else:
                self.queues.drop(queued, result.error if isinstance(result, Refusal) else None)

    def _hand_over(self, part: Part, error: Exception) -> None:
        if not isinstance(error, CancelledError):  # then the server stops
            logger.error("Events of %s from %s can't be checked now", part.room_id, part.origin, exc_info=error)
        for queued in part.held.values():
            self.queues.hand_over(queued)


def _log_refused(parts: Sequence[Part]) -> None:
    """One line, whatever a server sends."""
    refused = [error for part in parts for error in part.refused]
    if refused:
        number = sum(len(part.raws) for part in parts)
        logger.info("%d of %d events from %s are dropped: %s", len(refused), number, parts[0].origin, refused[0])


async def _wait_for(awaited: Iterable[Part | Queued]) -> None:
    for each in awaited:
        await each.wait()


def _by_room(pdus: Sequence[object]) -> Mapping[RoomId | None, list[object]]:
    """Under None what names no room. (A create event of room version 12 names none: nobody has to send us one.)"""
    rooms: dict[RoomId | None, list[object]] = {}
    for raw in pdus:
        rooms.setdefault(_room_id(raw), []).append(raw)
    return rooms


def _room_id(raw: object) -> RoomId | None:
    room_id = raw.get("room_id") if isinstance(raw, dict) else None
    try:
        return parse_room_id(room_id) if isinstance(room_id, str) else None
    except InvalidParam:
        return None


def _parse(raw: object, part: Part) -> Pdu | None:
    if part.version is None:
        return None
    try:
        return parse(raw, part.version, part.room_id)
    except MatrixError:
        return None


def _event_id(raw: object, part: Part) -> EventId | None:
    parsed = _parse(raw, part)
    return parsed.event_id if parsed is not None else None
