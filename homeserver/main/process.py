"""One process of the server: the reactor, from its first to its last turn."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import linecache
import logging
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from twisted.python.failure import Failure

from homeserver.runtime.config import Config, ConfigError
from homeserver.runtime.config_sections import LogConfig, RateLimitsConfig
from homeserver.runtime.logging_setup import set_up_logging

if TYPE_CHECKING:  # the server is imported once the reactor is installed
    from homeserver.main.server import RunningServer

logger = logging.getLogger(__name__)

GC_THRESHOLDS = (10_000, 20, 50)


def _call(_selectable: object, read_or_write: Callable[..., object], *args: object) -> None:
    read_or_write(*args)


def install_reactor() -> Any:
    """Twisted's asyncio reactor on uvloop; before anything imports `twisted.internet.reactor`."""
    import uvloop
    from twisted.internet import asyncioreactor
    from twisted.internet.main import installReactor

    # PERF(a tenth of a short request): Twisted makes each read a log context with the connection's name, which our logs have not.
    vars(asyncioreactor)["callWithLogger"] = _call
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    reactor = _define_reactor(asyncioreactor.AsyncioSelectorReactor)(loop)
    installReactor(reactor)  # type: ignore[no-untyped-call]
    return reactor


def _define_reactor(base: Any) -> Any:
    class Reactor(base):  # type: ignore[misc]  # Twisted has no annotations here
        """The asyncio reactor, where uvloop watches a socket no more that its peer has reset.

        Twisted hears of a reset by a read that fails. Where the read gets something that came before, nothing more is told, and
        the loop refuses to watch the socket until it is made to forget it.
        """

        def addReader(self, reader: Any) -> None:
            try:
                super().addReader(reader)
            except RuntimeError:
                self._forget(reader)
                super().addReader(reader)

        def addWriter(self, writer: Any) -> None:
            try:
                super().addWriter(writer)
            except RuntimeError:
                self._forget(writer)
                super().addWriter(writer)

        def _forget(self, selectable: Any) -> None:
            self._asyncioEventloop.remove_reader(selectable.fileno())
            self._asyncioEventloop.remove_writer(selectable.fileno())
            for watched, add in ((self._readers, super().addReader), (self._writers, super().addWriter)):
                if watched.pop(selectable, None) is not None:
                    add(selectable)

    return Reactor


def run(config: Config, reread: Callable[[], Config]) -> int:
    """Serve until a signal says stop; the exit code. On SIGHUP the configuration is read again.

    Raises: ConfigError.
    """
    reactor = install_reactor()
    set_up_logging(config.section(LogConfig))
    for warning in config.warnings:
        logger.warning("%s", warning)
    outcome = _Outcome()
    reactor.callWhenRunning(_start, config, reread, reactor, outcome)
    reactor.run(installSignalHandlers=False)
    if outcome.error is not None:
        raise outcome.error
    return 0


def run_once(config: Config, act: Callable[[Any], Awaitable[object]]) -> object:
    """Build the services without the network, do one thing with them, take them down; what `act` gave.

    Raises: ConfigError, and what `act` raises.
    """

    async def once(reactor: Any) -> object:
        from homeserver.main.server import build_services

        services = await build_services(config, reactor)
        try:
            return await act(services)
        finally:
            await services.stop()

    return run_alone(once)


def run_alone(act: Callable[[Any], Awaitable[object]]) -> object:
    """Run the reactor for one thing only; what `act(reactor)` gave. Raises: what it raises."""
    from twisted.internet.defer import Deferred

    reactor = install_reactor()
    results: list[object] = []
    failures: list[BaseException] = []

    async def once() -> None:
        results.append(await act(reactor))

    def note(failure: Failure) -> None:
        failures.append(failure.value or RuntimeError("failed"))

    def begin() -> None:
        done = Deferred.fromCoroutine(once())
        done.addErrback(note)
        done.addBoth(lambda _: reactor.stop())

    reactor.callWhenRunning(begin)
    reactor.run(installSignalHandlers=False)
    if failures:
        raise failures[0]
    return results[0]


def reload(running: RunningServer, reread: Callable[[], Config]) -> None:
    """Take on what can change while the server runs: rate limits, and how much is logged.

    A configuration that is wrong is logged, and changes nothing.
    """
    try:
        config = reread()
    except ConfigError as error:
        logger.error("The configuration stays as it was: %s", error)
        return
    running.services.limiter.reload(config.section(RateLimitsConfig))
    logging.getLogger().setLevel(config.section(LogConfig).level.upper())


def _settle_memory() -> None:
    """Give back what only the start needed, and have the garbage collector look at new objects alone, and less often.

    PERF(2 MiB of idle memory; 3 % of CPU, and pauses of a tenth of a second with full caches): nearly nothing here is freed
    by way of cycles.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
    if trim is not None:
        trim(0)


class _Outcome:
    error: BaseException | None = None


def _start(config: Config, reread: Callable[[], Config], reactor: Any, outcome: _Outcome) -> None:
    from twisted.internet.defer import Deferred

    async def start() -> None:
        from homeserver.main.server import start_server

        linecache.clearcache()  # PERF(1.5 MiB): attrs keeps the source of every method that it writes
        running = await start_server(config, reactor, handles_signals=True)
        running.lifecycle.on_reload(lambda: reload(running, reread))
        _settle_memory()
        _announce(config)

    def fail(failure: Any) -> None:
        outcome.error = failure.value
        if not isinstance(failure.value, ConfigError):
            logger.error("The server could not start", exc_info=failure.value)
        reactor.stop()

    Deferred.fromCoroutine(start()).addErrback(fail)


def _announce(config: Config) -> None:
    from homeserver.main.server import public_base_url
    from homeserver.runtime.config import ServerConfig

    name = config.section(ServerConfig).server_name
    print(f"Hearth serves {name} at {public_base_url(config)} (API documentation: /docs)", file=sys.stderr, flush=True)
