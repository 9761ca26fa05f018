"""From the first signal to exit: what a stopping server does, in order.

1. No new connections, idle ones are closed; answers carry Connection: close.
2. Whoever waits is told to answer now (Draining): long polls, above all.
3. Requests in hand are finished, up to a bound; the rest is dropped.
4. Services stop, the last started first; their Deferreds are awaited: commits, connections, threads.
5. The reactor stops, the process exits 0.

A second signal skips to 4. SIGHUP runs the reload hooks.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Awaitable, Callable
from typing import Any, Final

from twisted.internet.defer import Deferred

from homeserver.runtime.clock import Clock
from homeserver.runtime.http.endpoint import Auth, endpoint
from homeserver.runtime.http.response import Response
from homeserver.runtime.listeners import Listeners

logger = logging.getLogger(__name__)

DRAIN_BOUND_MS: Final = 20_000
HOOK_BOUND_MS: Final = 30_000


class Draining:
    """Tells whoever waits that the server is about to stop."""

    def __init__(self) -> None:
        self.is_draining = False
        self._callbacks: dict[int, Callable[[], object]] = {}
        self._next = 0

    def subscribe(self, callback: Callable[[], object]) -> Callable[[], None]:
        """Calls back once when draining begins, at once if it has. The answer takes the subscription back."""
        if self.is_draining:
            callback()
            return lambda: None
        self._next += 1
        number = self._next
        self._callbacks[number] = callback
        return lambda: self._callbacks.pop(number, None) and None

    def begin(self) -> None:
        if self.is_draining:
            return
        self.is_draining = True
        callbacks, self._callbacks = self._callbacks, {}
        for callback in callbacks.values():
            try:
                callback()
            except Exception:
                logger.exception("A waiter could not be told to stop")


class Lifecycle:
    """Stops and reloads a process."""

    def __init__(self, reactor: Any, clock: Clock, listeners: Listeners, bound_ms: int = DRAIN_BOUND_MS) -> None:
        self.draining = Draining()
        self._reactor = reactor
        self._clock = clock
        self._listeners = listeners
        self._bound_ms = bound_ms
        self._stop_hooks: list[tuple[str, Callable[[], Awaitable[object]]]] = []
        self._reload_hooks: list[Callable[[], object]] = [listeners.reload]
        self._stopping = False

    def on_stop(self, name: str, hook: Callable[[], Awaitable[object]]) -> None:
        """Awaits `hook()` when the server stops; hooks run one after the other, the last added first."""
        self._stop_hooks.append((name, hook))

    def on_reload(self, hook: Callable[[], object]) -> None:
        """Calls `hook()` on SIGHUP."""
        self._reload_hooks.append(hook)

    def install_signal_handlers(self) -> None:
        """SIGTERM and SIGINT stop, SIGHUP reloads. Call it in the main thread when the reactor runs."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._reactor.callFromThread(self.request_stop))
        signal.signal(signal.SIGHUP, lambda *_: self._reactor.callFromThread(self.reload))

    def request_stop(self) -> None:
        """Begins to stop; asked again, drops the requests in hand."""
        if self._stopping:
            self._listeners.abort()
            return
        self._stopping = True
        Deferred.fromCoroutine(self.stop()).addBoth(lambda _: self._reactor.stop())

    async def stop(self) -> None:
        """Everything but stopping the reactor."""
        logger.info("Stopping: requests in hand are answered first")
        self._listeners.stop_accepting()
        drained = self._listeners.drain()
        self.draining.begin()
        await self._within(self._bound_ms, drained)
        self._listeners.abort()
        for name, hook in reversed(self._stop_hooks):
            try:
                await self._within(HOOK_BOUND_MS, Deferred.fromCoroutine(_awaited(hook)))
            except Exception:
                logger.exception("%s did not stop cleanly", name)
        logger.info("Stopped")

    def reload(self) -> None:
        """Runs the reload hooks; one that fails doesn't keep the others from running."""
        logger.info("Reloading")
        for hook in self._reload_hooks:
            try:
                hook()
            except Exception:
                logger.exception("A part of the configuration could not be reloaded")

    def _within(self, bound_ms: int, deferred: Deferred[Any]) -> Deferred[Any]:
        """The deferred's result, or None after the bound; what it stands for is not cancelled."""
        done: Deferred[Any] = Deferred()
        timer: Any = self._clock.call_later(bound_ms, done.callback, None)

        def settle(result: Any) -> None:
            if not done.called:
                timer.cancel()
                done.callback(result)

        deferred.addBoth(settle)
        return done


async def _awaited(hook: Callable[[], Awaitable[object]]) -> object:
    return await hook()


class HealthEndpoint:
    """For load balancers: whether to send requests here."""

    def __init__(self, draining: Draining) -> None:
        self._draining = draining

    @endpoint("GET", "/health", auth=Auth.NONE, resource="health", tag="Operation")
    def get_health(self) -> Response:
        """200 "ok" while the server takes requests, 503 "draining" while it stops."""
        status, text = (503, b"draining") if self._draining.is_draining else (200, b"ok")
        return Response(status, text, [("Content-Type", "text/plain; charset=utf-8")])
