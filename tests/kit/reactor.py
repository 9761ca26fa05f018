"""The reactor that the server runs on, in a thread of its own, once for the whole run.

Tests are plain functions in the main thread. They talk to servers over HTTP; where one must call into a server, it does so
through `run_in_reactor`, which waits for the answer.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Awaitable, Callable
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.python.failure import Failure

T = TypeVar("T")

TIMEOUT_MS = 120_000
_lock = threading.Lock()
_running: list[Any] = []


def get_reactor() -> Any:
    """The reactor, running."""
    with _lock:
        if not _running:
            _running.append(_start())
        return _running[0]


def run_in_reactor(function: Callable[..., Any], *args: Any, timeout_ms: int = TIMEOUT_MS) -> Any:
    """Calls the function in the reactor's thread; what it returns, or what the awaitable that it returns comes to.

    Raises: what it raises; TimeoutError.
    """
    answers: SimpleQueue[Any] = SimpleQueue()
    get_reactor().callFromThread(lambda: maybeDeferred(_call, function, args).addBoth(answers.put))
    try:
        answer = answers.get(timeout=timeout_ms / 1000)
    except Empty:
        name = getattr(function, "__qualname__", "it")  # not its repr, which may be that of a whole server
        raise TimeoutError(f"{name} did not come to an end in {timeout_ms} ms") from None
    if isinstance(answer, Failure):
        answer.raiseException()
    return answer


def wait(awaitable: Awaitable[T], timeout_ms: int = TIMEOUT_MS) -> T:
    """Waits, in the main thread, for something of the reactor's."""
    result: T = run_in_reactor(lambda: awaitable, timeout_ms=timeout_ms)
    return result


def _call(function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    result = function(*args)
    return Deferred.fromCoroutine(result) if hasattr(result, "cr_frame") else result


def _start() -> Any:
    from homeserver.main.process import install_reactor

    reactor = install_reactor()
    started = threading.Event()
    reactor.callWhenRunning(started.set)
    thread = threading.Thread(target=lambda: reactor.run(installSignalHandlers=False), name="reactor", daemon=True)
    thread.start()
    started.wait()
    atexit.register(_stop, reactor, thread)
    return reactor


def _stop(reactor: Any, thread: threading.Thread) -> None:
    reactor.callFromThread(reactor.stop)
    thread.join(60)
