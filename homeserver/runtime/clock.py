"""Time as a constructor argument: the reactor's in the server, a manual one in tests."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime


class Clock(Protocol):
    def time_ms(self) -> int:
        """Wall-clock time, milliseconds since 1970."""
        ...

    def monotonic_ms(self) -> int:
        """A time that never goes back, for measuring durations."""
        ...

    def call_later(self, delay_ms: int, function: Callable[..., object], *args: Any) -> IDelayedCall:
        """Calls `function(*args)` once; the answer's cancel() takes it back."""
        ...

    async def sleep(self, duration_ms: int) -> None: ...


class SystemClock:
    """The machine's clock and the reactor's timers."""

    __slots__ = ("_reactor",)

    def __init__(self, reactor: IReactorTime) -> None:
        self._reactor: Any = reactor  # zope's interfaces have no self, which mypy takes amiss

    def time_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic_ms(self) -> int:
        return time.monotonic_ns() // 1_000_000

    def call_later(self, delay_ms: int, function: Callable[..., object], *args: Any) -> IDelayedCall:
        call: IDelayedCall = self._reactor.callLater(delay_ms / 1000, function, *args)
        return call

    async def sleep(self, duration_ms: int) -> None:
        await sleep_on(self, duration_ms)


class ManualClock:
    """A clock that moves only when told to; for tests."""

    def __init__(self, time_ms: int = 1_700_000_000_000) -> None:
        from twisted.internet.task import Clock as TwistedClock

        self._start_ms = time_ms
        self._twisted = TwistedClock()

    def time_ms(self) -> int:
        return self._start_ms + self.monotonic_ms()

    def monotonic_ms(self) -> int:
        return round(self._twisted.seconds() * 1000)

    def call_later(self, delay_ms: int, function: Callable[..., object], *args: Any) -> IDelayedCall:
        return self._twisted.callLater(delay_ms / 1000, function, *args)

    async def sleep(self, duration_ms: int) -> None:
        await sleep_on(self, duration_ms)

    def advance(self, duration_ms: int) -> None:
        """Moves time on and runs the calls that have come due."""
        self._twisted.advance(duration_ms / 1000)


def sleep_on(clock: Clock, duration_ms: int) -> Deferred[None]:
    """Fires after `duration_ms`; cancelling it takes the timer back."""
    done: Deferred[None] = Deferred(lambda _: call.cancel())
    call: Any = clock.call_later(duration_ms, done.callback, None)
    return done
