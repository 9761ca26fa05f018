"""One at a time for each key: for what reads, decides and writes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from typing import Any, Generic, TypeVar

from twisted.internet.defer import DeferredLock

from homeserver.runtime.clock import Clock

K = TypeVar("K", bound=Hashable)


class Turns(Generic[K]):
    """Locks that exist only while somebody holds or awaits them."""

    def __init__(self) -> None:
        self._locks: dict[K, DeferredLock] = {}

    @asynccontextmanager
    async def take(self, key: K) -> AsyncIterator[None]:
        """First come, first served."""
        lock = await self._acquire(key)
        try:
            yield
        finally:
            self._release(key, lock)

    @asynccontextmanager
    async def take_for(self, key: K, clock: Clock, longest_ms: int) -> AsyncIterator[None]:
        """As take, but the next one waits no longer than so: then it has its turn beside this one."""
        lock = await self._acquire(key)
        timer: Any = clock.call_later(longest_ms, self._release, key, lock)
        try:
            yield
        finally:
            if timer.active():
                timer.cancel()
                self._release(key, lock)

    async def _acquire(self, key: K) -> DeferredLock:
        lock = self._locks.setdefault(key, DeferredLock())
        await lock.acquire()
        return lock

    def _release(self, key: K, lock: DeferredLock) -> None:
        lock.release()
        if not lock.locked and self._locks.get(key) is lock:
            del self._locks[key]
