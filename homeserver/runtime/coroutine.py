"""Drives a coroutine over Deferreds, paying for it only when the coroutine really waits.

`Deferred.fromCoroutine` builds a Deferred, a status object and a copied context for every call, though most
handlers answer from memory and never wait. `drive` runs the coroutine at once; a `Drive` comes into being
only at the first wait.

Invariants:
- `done` is called exactly once, after the coroutine has ended, never from within it;
- after the first wait the coroutine goes on in a copy of the context it was started in (the logs' request id).
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Hashable, Iterable
from contextvars import Context, copy_context
from typing import Any, Generic, TypeVar

from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.python.failure import Failure

from homeserver.runtime.clock import Clock

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


async def gather(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Runs coroutines side by side; their results in order, once all have ended.

    Raises: what the first of them raised.
    """
    running = DeferredList([Deferred.fromCoroutine(coroutine) for coroutine in coroutines], consumeErrors=True)
    outcomes: list[tuple[bool, Any]] = await running
    for succeeded, value in outcomes:
        if not succeeded:
            value.raiseException()
    return [value for _, value in outcomes]


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
