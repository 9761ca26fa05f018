"""Keeps an index for searching up with what is written, in the background: a little after it, much of it at once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

from attrs import define, field
from sqlalchemy import Connection
from twisted.internet.defer import Deferred

from homeserver.runtime.clock import Clock
from homeserver.runtime.db import Database
from homeserver.store.log import LogRow
from homeserver.store.search_words import SEARCHED

logger = logging.getLogger(__name__)

DELAY_MS: Final = 2_000
RETRY_MS: Final = 30_000
# Between two batches of what is behind, so that sending hardly waits for them.
PAUSE_MS: Final = 30
# A search waits for what is not in the index yet, if it is not more than this.
WAITED_BATCHES: Final = 8


@define(eq=False)
class SearchIndex:
    """step: puts the next batch of what is missing into the index, and says how much it was. concerns: whether something is to
    be done after a row of the log."""

    database: Database
    clock: Clock
    step: Callable[[Connection], int]
    concerns: Callable[[LogRow], bool]
    _timer: Any = field(default=None, init=False)
    _running: Deferred[None] | None = field(default=None, init=False)
    _is_behind: bool = field(default=False, init=False)
    _stopped: bool = field(default=False, init=False)

    def start(self) -> None:
        """Index what was written while no process did."""
        self._wait(0)

    async def stop(self) -> None:
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._running is not None:
            waiting: Deferred[None] = Deferred()
            self._running.chainDeferred(waiting)
            await waiting

    def on_rows(self, rows: Sequence[LogRow]) -> None:
        if self._timer is None and not self._is_behind and any(self.concerns(row) for row in rows):
            self._is_behind = True
            if self._running is None:
                self._wait(DELAY_MS)

    async def catch_up(self) -> None:
        """Have what was written until now in the index, unless that is very much."""
        for _ in range(WAITED_BATCHES):
            if await self.database.run(self.step) == 0:
                return

    def _wait(self, delay_ms: int) -> None:
        if not self._stopped:
            self._timer = self.clock.call_later(delay_ms, self._on_time)

    def _on_time(self) -> None:
        self._timer = None
        self._running = Deferred.fromCoroutine(self._index()).addBoth(self._on_done)

    async def _index(self) -> None:
        self._is_behind = False
        while not self._stopped and await self.database.run(self.step) > 0:
            await self.clock.sleep(PAUSE_MS)

    def _on_done(self, result: Any) -> None:
        self._running = None
        if result is None:
            if self._is_behind:  # something was written meanwhile
                self._wait(DELAY_MS)
            return
        if not self._stopped:
            logger.error(
                "An index for searching failed", exc_info=(result.type, result.value, result.getTracebackObject())
            )
            self._wait(RETRY_MS)


def concerns_words(row: LogRow) -> bool:
    """What is said in rooms changed."""
    return row.event is not None and (row.event.pdu.type in SEARCHED or "redacts" in row.data)
