"""One at a time for each room."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from attrs import define, field
from twisted.internet.defer import DeferredLock

from homeserver.matrix.ids import RoomId


@define(eq=False)
class RoomLocks:
    _locks: dict[RoomId, DeferredLock] = field(init=False, factory=dict)

    @asynccontextmanager
    async def hold(self, room_id: RoomId) -> AsyncIterator[None]:
        lock = self._locks.setdefault(room_id, DeferredLock())
        await lock.acquire()
        try:
            yield
        finally:
            lock.release()
            if not lock.locked:
                self._locks.pop(room_id, None)
