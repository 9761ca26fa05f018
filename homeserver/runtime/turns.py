"""Whose turn it is: one at a time for each key, for what reads, decides and writes; so many at once, for what asks others."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Hashable, Iterable
from contextlib import asynccontextmanager
from typing import Any, Generic, TypeVar

from twisted.internet.defer import CancelledError, Deferred, DeferredLock, DeferredSemaphore

from homeserver.runtime.clock import Clock
from homeserver.runtime.coroutine import gather, next_turn

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


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


class Slots:
    """So many at once, first come, first served, and no two begin in one turn of the event loop: what each costs at its
    beginning, and when its time is up, does not add up to what others would notice. One that takes longer than
    `longest_ms` goes on but no longer counts, so that those which hang hold up no others.
    """

    def __init__(self, clock: Clock, at_once: int, longest_ms: int) -> None:
        self._clock = clock
        self._longest_ms = longest_ms
        self._free = DeferredSemaphore(at_once)
        self._next = DeferredLock()

    async def take(self) -> Callable[[], None]:
        """Waits for a slot; call what it gives to leave it. Who is cancelled while waiting has had none."""
        await self._next.acquire()
        try:
            await next_turn()
            await self._free.acquire()
        finally:
            self._next.release()
        timer: Any = self._clock.call_later(self._longest_ms, self._free.release)

        def leave() -> None:
            if timer.active():
                timer.cancel()
                self._free.release()

        return leave

    async def gather(self, starts: Iterable[Callable[[], Coroutine[Any, Any, T]]]) -> list[T]:
        """As the function of that name, each in a slot. Raises: what the first of them raised."""
        running: list[Deferred[T]] = []
        try:
            for start in starts:
                leave = await self.take()
                running.append(Deferred.fromCoroutine(_and_leave(start(), leave)))
        except CancelledError:
            for each in running:
                each.addErrback(_drop)
                each.cancel()
            raise
        return await gather(_awaited(each) for each in running)


async def _and_leave(coroutine: Coroutine[Any, Any, T], leave: Callable[[], None]) -> T:
    try:
        return await coroutine
    finally:
        leave()


async def _awaited(running: Deferred[T]) -> T:
    return await running


def _drop(_failure: object) -> None:
    """Of what nobody waits for any more."""
