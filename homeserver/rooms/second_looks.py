"""A second look at sticky events that were soft failed.

An event is soft failed for what the room's state says when it comes: its sender's join may not be known yet, or a ban of them
may be undone when a fork is resolved. Other events are lost to clients then; a sticky one gets another chance with every
change of what allowed or forbade it, as long as it is sticky. It takes a place at the end of the timeline, as if it came now.

What is looked for is in the database (store/sticky.py), which is asked only for rooms that may have some
(folds/sticky_events.py). What a crash leaves undone is done at the next start.

Spec: MSC4354
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from attrs import define, field

from homeserver.folds.sticky_events import StickyEvents
from homeserver.matrix.errors import NotFound
from homeserver.matrix.ids import RoomId, UserId
from homeserver.matrix.state_map import JOIN_RULES, POWER_LEVELS
from homeserver.rooms.head import MEMBER
from homeserver.rooms.heads import Room
from homeserver.rooms.ingest import Ingest
from homeserver.rooms.ingest_run import Arrival, Run
from homeserver.rooms.writer import ATTEMPTS, RoomBusy
from homeserver.runtime.background import Background
from homeserver.runtime.clock import Clock
from homeserver.runtime.db import Database, RowExists
from homeserver.store.events import StoredEvent
from homeserver.store.log import LogRow
from homeserver.store.log_writer import LostCompare
from homeserver.store.outliers import HIDDEN
from homeserver.store.sticky import load_soft_failed_sticky

logger = logging.getLogger(__name__)

MAX_SENDERS: Final = 100  # beyond these all events of the room are looked at
RETRY_MS: Final = 10_000

# None: whoever sent them.
Senders = frozenset[UserId] | None
_NOBODY: Final[frozenset[UserId]] = frozenset()


@define(eq=False)
class SecondLooks:
    """Follows the log, behind the sticky events."""

    database: Database
    clock: Clock
    ingest: Ingest
    sticky: StickyEvents
    background: Background
    # What is due in a room for which somebody waits.
    _due: dict[RoomId, Senders] = field(factory=dict, init=False)
    _timers: dict[RoomId, Any] = field(factory=dict, init=False)
    _stopped: bool = field(default=False, init=False)

    def start(self) -> None:
        """Look at all that there was when the server stopped."""
        for room_id in self.sticky.soft_failed_rooms:
            self._want(room_id, None)

    async def stop(self) -> None:
        self._stopped = True
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def on_rows(self, rows: Sequence[LogRow]) -> None:
        for row in rows:
            room_id = RoomId(row.key)
            if row.kind == HIDDEN and "sticky_until_ms" in row.data:
                # The state may have changed between the event's check and its row.
                self._want(room_id, None)
            elif row.deltas and self.sticky.may_have_soft_failed(room_id):
                senders = _allowed_by(row)
                if senders != _NOBODY:
                    self._want(room_id, senders)

    def _want(self, room_id: RoomId, senders: Senders) -> None:
        if self._stopped:
            return
        is_waiting = room_id in self._due
        due = self._due.get(room_id, _NOBODY)
        self._due[room_id] = None if due is None or senders is None else due | senders
        if not is_waiting:
            fault = f"Sticky events of {room_id} could not be looked at again"
            self.background.run(self._look(room_id), fault, partial(self._retry, room_id))

    def _retry(self, room_id: RoomId) -> None:
        if room_id not in self._timers and not self._stopped and self.sticky.may_have_soft_failed(room_id):
            self._timers[room_id] = self.clock.call_later(RETRY_MS, self._on_time, room_id)

    def _on_time(self, room_id: RoomId) -> None:
        self._timers.pop(room_id, None)
        self._want(room_id, None)

    async def _look(self, room_id: RoomId) -> None:
        """Raises: RoomBusy."""
        async with self.ingest.turns.take(room_id):
            senders = self._due.pop(room_id)
            for _ in range(ATTEMPTS):
                try:
                    if await self._try_look(room_id, senders):
                        return
                except NotFound:
                    return  # the room is gone
                except (LostCompare, RowExists):
                    continue
        raise RoomBusy("The room is too busy, try again")

    async def _try_look(self, room_id: RoomId, senders: Senders) -> bool:
        """Whether all that may be seen now was written; else it has to be tried again.

        Raises: NotFound, LostCompare, RowExists.
        """
        room = await self.ingest.heads.load_room(room_id)
        version = room.committed.version
        events = await self.database.read(
            load_soft_failed_sticky, room_id, version, self.clock.time_ms(), None if senders is None else list(senders)
        )
        run = Run(room, {})
        for event in events:
            create = room.committed.create
            fault = await self.ingest.checks.find_fault_in(event.pdu, create, room.speculative.state, room.fresh)
            if fault is None and event.redacted_by is None:
                await self.ingest.accept(run, await self._arrive(room, event))
        await run.wait()
        for event_id, outcome in run.outcomes.items():
            if isinstance(outcome, Exception):
                raise outcome
            logger.info("%s in %s is no longer soft failed", event_id, room_id)
        return not run.is_lost

    async def _arrive(self, room: Room, event: StoredEvent) -> Arrival:
        arrival = await self.ingest.arrive_again(room, event)
        arrival.event.sticky_until_ms = event.sticky_until_ms
        if event.pdu.state_key is None:
            # The room's state needs nothing of it, and others may follow it already: it is no extremity.
            arrival.is_late = True
        else:
            arrival.superseded = await self.ingest.load_superseded(room, event.pdu)
        return arrival


def _allowed_by(row: LogRow) -> Senders:
    """Whose events may be allowed now that were not."""
    keys = {delta.key for delta in row.deltas}
    members = frozenset(UserId(key[1]) for key in keys if key[0] == MEMBER)
    if POWER_LEVELS in keys or JOIN_RULES in keys or len(members) > MAX_SENDERS:
        return None
    return members
