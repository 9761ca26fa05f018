"""Looks, now and then, for rooms that no local user is in any more, and deletes those that have been empty for long; and for
rooms with more fetched history than they may keep."""

from __future__ import annotations

import logging
from typing import Any, Final

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from homeserver.matrix.ids import RoomId, ServerName
from homeserver.rooms.history_trimming import HistoryTrims
from homeserver.rooms.purges import RoomInUse, RoomPurges
from homeserver.runtime.clock import Clock
from homeserver.runtime.db import Database
from homeserver.store.room_upkeep import load_due_rooms, note_empty_rooms

logger = logging.getLogger(__name__)

INTERVAL_MS: Final = 3600 * 1000
FIRST_MS: Final = 60 * 1000
DAY_MS: Final = 24 * 3600 * 1000
ROOMS_AT_ONCE: Final = 200
PAUSE_MS: Final = 20


@define(eq=False)
class RoomUpkeep:
    server_name: ServerName
    database: Database
    clock: Clock
    purges: RoomPurges
    trims: HistoryTrims
    grace_days: int
    _timer: Any = field(default=None, init=False)
    _running: Deferred[Any] | None = field(default=None, init=False)
    _stopped: bool = field(default=False, init=False)

    def start(self) -> None:
        self._wait(FIRST_MS)

    async def stop(self) -> None:
        self._stopped = True
        self.purges.stop()
        self.trims.stop()
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        if self._running is not None:
            done: Deferred[None] = Deferred()
            self._running.addBoth(lambda _: done.callback(None))
            self._running.cancel()
            await done

    async def run(self) -> list[RoomId]:
        """One round; the rooms that it deleted."""
        await self.purges.resume()
        deleted = await self._delete_empty() if self.grace_days else []
        if not self._stopped:
            await self.trims.run()
        return deleted

    async def _delete_empty(self) -> list[RoomId]:
        await self._note_empty()
        before_ms = self.clock.time_ms() - self.grace_days * DAY_MS
        deleted = []
        for room_id in await self.database.read(load_due_rooms, before_ms, ROOMS_AT_ONCE):
            if self._stopped:
                break
            try:
                await self.purges.purge(room_id)
            except RoomInUse:  # somebody came back a moment ago; the next round takes it from the list
                continue
            deleted.append(room_id)
        return deleted

    async def _note_empty(self) -> None:
        after: RoomId | None = None
        while not self._stopped:
            now_ms = self.clock.time_ms()
            after = await self.database.run(note_empty_rooms, self.server_name, now_ms, after, ROOMS_AT_ONCE)
            if after is None:
                return
            await self.clock.sleep(PAUSE_MS)

    def _wait(self, delay_ms: int) -> None:
        if not self._stopped:
            self._timer = self.clock.call_later(delay_ms, self._on_time)

    def _on_time(self) -> None:
        self._running = Deferred.fromCoroutine(self.run()).addBoth(self._on_done)

    def _on_done(self, result: Any) -> None:
        self._running = None
        if isinstance(result, Failure) and not self._stopped:
            logger.error("Rooms could not be looked after", exc_info=result.value)
        self._wait(INTERVAL_MS)
