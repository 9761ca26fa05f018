"""Events that enter a room, one behind another, and what is known of each of them on its way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum

from attrs import define, field, frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from homeserver.matrix.ids import EventId
from homeserver.matrix.pdu import Pdu
from homeserver.matrix.state_map import StateKey
from homeserver.rooms.heads import Room
from homeserver.rooms.state_nodes import StateNode
from homeserver.runtime.db import RowExists
from homeserver.store.events import StoredEvent
from homeserver.store.log_writer import LostCompare
from homeserver.store.room_writes import NewEvent


class Receipt(Enum):
    """What became of an event."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    SOFT_FAILED = "soft failed"
    KNOWN = "known"


@frozen
class Facts:
    """What the database knows about an event that comes in.

    is_late: a stored event follows it already. is_taken: an event of another room has its id, which only servers that choose
    ids can come up with.
    """

    known: StoredEvent | None
    is_late: bool
    redactions: Sequence[EventId]
    is_taken: bool = False


@define(eq=False)
class Arrival:
    """An event on its way into the room."""

    event: StoredEvent
    was_outlier: bool
    before: StateNode
    after: StateNode
    is_late: bool
    missing: frozenset[EventId]
    superseded: frozenset[EventId] = frozenset()
    redacts: EventId | None = None
    waits_for: EventId | None = None
    redacts_in_vain: bool = False

    @property
    def is_hidden(self) -> bool:
        return self.event.rejected is not None or self.event.soft_failed

    @property
    def new(self) -> NewEvent:
        return NewEvent(
            self.event,
            self.before.snapshot,
            self.after.snapshot,
            redacts=self.redacts,
            was_outlier=self.was_outlier,
        )


@frozen
class Incoming:
    """An event whose format, signatures and hashes were checked; the rest as Ingest.receive takes it."""

    pdu: Pdu
    state_before: Mapping[StateKey, EventId] | None = None
    unwanted: str | None = None


@define(eq=False)
class Run:
    """Events of one room that are judged one behind another, before the first of them is on the disk.

    after: the states after those that were accepted. redactions: those among them that came before what they redact. missing:
    prev events of them that are not stored.
    is_lost: one of them did not get to the disk; nothing can be built on it, and all without an outcome are judged anew.
    """

    room: Room
    facts: Mapping[EventId, Facts]
    outcomes: dict[EventId, Receipt | Exception] = field(factory=dict)
    after: dict[EventId, StateNode] = field(factory=dict)
    redactions: dict[EventId, list[EventId]] = field(factory=dict)
    missing: set[EventId] = field(factory=set)
    is_lost: bool = False
    _writes: list[Deferred[None]] = field(factory=list)

    def add(self, arrival: Arrival, write: Deferred[int], on_stored: Callable[[Arrival], None]) -> None:
        """An event that was accepted and submitted. on_stored is called with it when it is on the disk."""
        event_id = arrival.event.event_id
        self.after[event_id] = arrival.after
        self.missing |= arrival.missing
        if arrival.waits_for is not None:
            self.redactions.setdefault(arrival.waits_for, []).append(event_id)

        def on_written(_: int) -> None:
            self.outcomes[event_id] = Receipt.ACCEPTED
            on_stored(arrival)

        def on_failed(failure: Failure) -> Failure | None:
            self.is_lost = True
            if isinstance(failure.value, CancelledError):
                return failure
            if not isinstance(failure.value, LostCompare | RowExists):
                self.outcomes[event_id] = failure.value  # type: ignore[assignment]  # no BaseException comes here
            return None

        self._writes.append(write.addCallbacks(on_written, on_failed))

    async def wait(self) -> None:
        """Until all that was submitted is on the disk, or has failed."""
        writes, self._writes = self._writes, []
        for write in writes:
            await write

    async def wait_for_all(self) -> None:
        """Raises: LostCompare, if one failed."""
        await self.wait()
        if self.is_lost:
            raise LostCompare(self.room.committed.room_id)
