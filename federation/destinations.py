"""Which servers fail to answer, and how long to leave them alone.

A server that fails is asked again after 5 seconds, and after each failure twice as long, up to 12 hours. It is asked at once
when it calls us, for then it is there; who waits for that (the outgoing queues) is told. The state is in memory and in the
database, so a restart does not call a thousand dead servers anew.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from random import Random
from typing import Final

from attrs import define, evolve, field
from twisted.internet.defer import Deferred

from federation.errors import BackingOff
from homeserver.matrix.ids import ServerName
from homeserver.runtime.clock import Clock
from homeserver.runtime.db import Database, DatabaseFault
from homeserver.store.destinations import DestinationRow, load_destinations, save_destinations

logger = logging.getLogger(__name__)

FIRST_INTERVAL_MS: Final = 5_000
MAX_INTERVAL_MS: Final = 12 * 3600 * 1000
MAX_FAILING: Final = 50_000


@define(eq=False)
class Destinations:
    """Backoff for each server."""

    database: Database
    clock: Clock
    _random: Random = field(init=False, factory=Random)
    _failing: OrderedDict[str, DestinationRow] = field(init=False, factory=OrderedDict)
    _unsaved: set[str] = field(init=False, factory=set)
    _saving: Deferred[None] | None = field(init=False, default=None)
    _listeners: list[Callable[[ServerName], object]] = field(init=False, factory=list)

    async def start(self) -> None:
        rows = await self.database.read(load_destinations, MAX_FAILING)
        self._failing = OrderedDict((row.server, row) for row in rows)

    async def stop(self) -> None:
        """Wait until what was learnt is saved."""
        while self._saving is not None:
            await self._saved()

    def on_alive(self, listener: Callable[[ServerName], object]) -> None:
        """Calls `listener(server)` whenever a server that had failed answers, or calls us."""
        self._listeners.append(listener)

    def check(self, server: ServerName) -> None:
        """Raises: BackingOff."""
        row = self._failing.get(server)
        if row is not None and self.clock.time_ms() < row.retry_ts_ms:
            raise BackingOff(server, row.retry_ts_ms)

    def get(self, server: ServerName) -> DestinationRow | None:
        """What is known of a server that fails; None for all others."""
        return self._failing.get(server)

    def note_alive(self, server: ServerName) -> None:
        """It answered, or it called us."""
        if self._failing.pop(server, None) is None:
            return
        logger.info("%s is back", server)
        self._save(server)
        for listener in self._listeners:
            try:
                listener(server)
            except Exception:
                logger.exception("A listener failed to be told that %s is back", server)

    def note_failure(self, server: ServerName, why: str) -> None:
        """It could not be reached. Failures of requests that ran side by side count once."""
        now_ms = self.clock.time_ms()
        row = self._failing.get(server)
        if row is None:
            logger.info("%s fails: %s", server, why)
            row = DestinationRow(server, now_ms, 0, FIRST_INTERVAL_MS // 2, 0)
        elif now_ms < row.retry_ts_ms:
            return
        interval_ms = min(row.interval_ms * 2, MAX_INTERVAL_MS)
        # Spread, so that servers that went down together are not all asked at one moment.
        retry_ts_ms = now_ms + int(interval_ms * self._random.uniform(0.8, 1.2))
        self._failing[server] = evolve(row, failures=row.failures + 1, interval_ms=interval_ms, retry_ts_ms=retry_ts_ms)
        self._failing.move_to_end(server)
        self._save(server)
        if len(self._failing) > MAX_FAILING:
            self._save(self._failing.popitem(last=False)[0])

    def _save(self, server: str) -> None:
        self._unsaved.add(server)
        if self._saving is None:
            saving = Deferred.fromCoroutine(self._save_all())
            self._saving = None if saving.called else saving

    async def _save_all(self) -> None:
        """What changes while a transaction runs goes with the next one; what could not be saved, with the next change."""
        servers: list[str] = []
        try:
            while self._unsaved:
                servers, self._unsaved = sorted(self._unsaved), set()
                failing = [self._failing[server] for server in servers if server in self._failing]
                recovered = [server for server in servers if server not in self._failing]
                await self.database.run(save_destinations, failing, recovered)
        except Exception as error:
            if isinstance(error, DatabaseFault):
                self._unsaved.update(servers)
            logger.exception("The state of other servers could not be saved")
        finally:
            self._saving = None

    async def _saved(self) -> None:
        assert self._saving is not None
        done: Deferred[None] = Deferred()
        self._saving.addBoth(lambda _: done.callback(None))
        await done
