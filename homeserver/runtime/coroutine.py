"""Drives a coroutine over Deferreds, paying for it only when the coroutine really waits.

`Deferred.fromCoroutine` builds a Deferred, a status object and a copied context for every call, though most
handlers answer from memory and never wait. `drive` runs the coroutine at once; a `Drive` comes into being
only at the first wait.

Invariants:
- `done` is called exactly once, after the coroutine has ended, never from within it;
- after the first wait the coroutine goes on in a copy of the context it was started in (the logs' request id).
"""

from __future__ import annotations

import logging
from asyncio import get_running_loop
from collections.abc import Callable, Coroutine, Hashable, Iterable
from contextvars import Context, copy_context
from typing import Any, Generic, TypeVar

from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.python.failure import Failure

from homeserver.runtime.clock import Clock

logger = logging.getLogger(__name__)

T = TypeVar("T")

_failure: Any = Failure  # it has no annotations

# (value, None) or (None, error).
Done = Callable[[Any, "BaseException | None"], None]


def drive(coroutine: Coroutine[Any, Any, Any], done: Done) -> Drive | None:
    """Runs the coroutine until it ends or waits; None when it ended (and `done` was called)."""
    try:
        waiting_on = coroutine.send(None)
    except StopIteration as stop:
        value, error = stop.value, None
    except Exception as raised:
        value, error = None, raised
    else:
        return Drive(coroutine, done, waiting_on)
    done(value, error)
    return None


class Drive:
    """A coroutine that waits for a Deferred."""

    __slots__ = ("_context", "_coroutine", "_done", "_waiting_on")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], done: Done, waiting_on: object) -> None:
        self._coroutine = coroutine
        self._done = done
        self._context: Context = copy_context()
        self._waiting_on: Deferred[Any] | None = None
        self._wait(waiting_on)

    def cancel(self) -> None:
        """Cancels what the coroutine waits for; it sees a CancelledError there, and may clean up or go on."""
        if self._waiting_on is not None:
            self._waiting_on.cancel()

    def _wait(self, waiting_on: object) -> None:
        if isinstance(waiting_on, Deferred):
            self._waiting_on = waiting_on
            waiting_on.addBoth(self._resume)
        else:
            self._resume(_failure(TypeError(f"awaited {type(waiting_on).__name__}, which is no Deferred")))

    def _resume(self, result: object) -> None:
        self._waiting_on = None
        try:
            waiting_on = self._context.run(self._send, result)
        except StopIteration as stop:
            value, error = stop.value, None
        except Exception as raised:
            value, error = None, raised
        else:
            self._wait(waiting_on)
            return
        self._context.run(self._done, value, error)

    def _send(self, result: object) -> object:
        if isinstance(result, Failure):
            throw: Any = result.throwExceptionIntoGenerator
            return throw(self._coroutine)
        return self._coroutine.send(result)


def next_turn() -> Deferred[float]:
    """Fires when the event loop has handled what is ready now, with the loop's time in seconds; at once where none runs."""
    turned: Deferred[float] = Deferred()
    try:
        loop = get_running_loop()
    except RuntimeError:
        turned.callback(0.0)
    else:
        loop.call_soon(lambda: turned.callback(loop.time()))
    return turned


async def gather(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Runs coroutines side by side; their results in order, once all have ended.

    Raises: what the first of them raised.
    """
    coroutines = list(coroutines)
    if len(coroutines) < 2:  # PERF: nothing runs beside it
        return [await coroutine for coroutine in coroutines]
    running = DeferredList([Deferred.fromCoroutine(coroutine) for coroutine in coroutines], consumeErrors=True)
    outcomes: list[tuple[bool, Any]] = await running
    for succeeded, value in outcomes:
        if not succeeded:
            value.raiseException()
    return [value for _, value in outcomes]


class Contest:
    """Coroutines that run side by side until there is enough of what they bring. Those that still run then go on by
    themselves; what they raise is logged."""

    __slots__ = ("_failure", "_is_enough", "_running", "_waiter")

    def __init__(self, is_enough: Callable[[], bool]) -> None:
        self._is_enough = is_enough
        self._running = 0
        self._waiter: Deferred[None] | None = None
        self._failure: Any = None

    def add(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self._running += 1
        Deferred.fromCoroutine(coroutine).addBoth(self._on_end)

    async def wait(self) -> None:
        """Until there is enough, or all have ended. May be cancelled, and called again.

        Raises: what one of them raised.
        """
        if self._failure is None and self._running and not self._is_enough():
            self._waiter = Deferred()
            try:
                await self._waiter
            finally:
                self._waiter = None
        if self._failure is not None:
            self._failure.raiseException()

    def _on_end(self, result: Any) -> None:
        self._running -= 1
        if isinstance(result, Failure):
            self._failure = self._failure or result
            if self._waiter is None:
                logger.info("What is no longer waited for failed: %s", result.value)
        waiter = self._waiter
        if waiter is not None and (self._failure is not None or not self._running or self._is_enough()):
            self._waiter = None
            waiter.callback(None)


def shielded(coroutine: Coroutine[Any, Any, T]) -> Deferred[T]:
    """Fires with what the coroutine comes to. It goes on when who waits is cancelled; then its outcome is dropped."""
    mine: Deferred[T] = Deferred()

    def settle(result: Any) -> None:
        if not mine.called:
            mine.callback(result)  # a Failure goes the way of errors

    Deferred.fromCoroutine(coroutine).addBoth(settle)
    return mine


async def within(clock: Clock, timeout_ms: int, coroutine: Coroutine[Any, Any, T]) -> T:
    """The coroutine's result; it is cancelled when it takes longer.

    Raises: TimeoutError, and what the coroutine raises.
    """
    running = Deferred.fromCoroutine(coroutine)
    timer: Any = clock.call_later(timeout_ms, running.cancel)
    try:
        return await running
    except CancelledError:
        if timer.active():
            raise  # whoever waits for the result was cancelled
        raise TimeoutError(f"not done within {timeout_ms} ms") from None
    finally:
        if timer.active():
            timer.cancel()


class SingleFlight(Generic[T]):
    """Work that several want at once is done once. The work goes on when one of them, or all, give up."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: dict[Hashable, list[Deferred[T]]] = {}

    def is_running(self, key: Hashable) -> bool:
        return key in self._waiting

    async def do(self, key: Hashable, start: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What `start()` comes to, begun now or by somebody before. Raises: what it raises."""
        mine: Deferred[T] = Deferred()
        waiting = self._waiting.get(key)
        if waiting is not None:
            waiting.append(mine)
            return await mine
        self._waiting[key] = [mine]
        Deferred.fromCoroutine(start()).addBoth(self._settle, key)
        return await mine

    def _settle(self, result: Any, key: Hashable) -> None:
        for waiter in self._waiting.pop(key):
            if not waiter.called:
                waiter.callback(result)  # a Failure goes the way of errors
