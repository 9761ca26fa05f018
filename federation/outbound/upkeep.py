"""Messages to devices of servers that don't take them: bounded in age and number, and emptied once they are delivered.

What other items leave behind is a row for each room or user. But messages are kept one by one, and a server that is gone for
good would gather them for ever. So are sticky events, of which an hour later none is sticky.

What others sent that waits for something (`tidy_received`) is looked after at the same times.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from homeserver.matrix.ids import ServerName
from homeserver.matrix.sticky import MAX_STICKY_MS
from homeserver.runtime.clock import Clock
from homeserver.runtime.db import Database
from homeserver.store.log import load_head_position
from homeserver.store.outbound import drop_messages, drop_sticky, empty_delivered_messages, load_waiting_messages

logger = logging.getLogger(__name__)

MAX_AGE_MS: Final = 30 * 24 * 3600 * 1000
MAX_MESSAGES: Final = 100_000  # that wait for one server
FIRST_MS: Final = 90 * 1000
INTERVAL_MS: Final = MAX_STICKY_MS
ROWS_AT_ONCE: Final = 500
LOG_ROWS_AT_ONCE: Final = 5_000
PAUSE_MS: Final = 20


@define(eq=False)
class MessageUpkeep:
    database: Database
    clock: Clock
    tidy_received: Callable[[], Awaitable[None]]
    _log_end: int = field(default=0, init=False)  # as of the last round
    _timer: Any = field(default=None, init=False)
    _running: Deferred[Any] | None = field(default=None, init=False)
    _stopped: bool = field(default=False, init=False)

    def start(self) -> None:
        self._wait(FIRST_MS)

    def stop(self) -> None:
        self._stopped = True
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        if self._running is not None:
            self._running.cancel()

    async def run(self) -> None:
        """One round. There is MAX_STICKY_MS, or more, between two."""
        await self.database.run(drop_sticky, self._log_end)
        self._log_end = await self.database.read(load_head_position)
        for server, count in (await self.database.read(load_waiting_messages)).items():
            dropped = await self._drop(server, count - MAX_MESSAGES)
            if dropped:
                logger.warning("%d messages to devices of %s are given up: it is away for too long", dropped, server)
        while await self.database.run(empty_delivered_messages, LOG_ROWS_AT_ONCE):
            await self.clock.sleep(PAUSE_MS)
        await self.tidy_received()

    async def _drop(self, server: ServerName, excess: int) -> int:
        before_ts_ms = self.clock.time_ms() - MAX_AGE_MS
        total = 0
        while dropped := await self.database.run(drop_messages, server, excess - total, before_ts_ms, ROWS_AT_ONCE):
            total += dropped
            await self.clock.sleep(PAUSE_MS)
        return total

    def _wait(self, delay_ms: int) -> None:
        if not self._stopped:
            self._timer = self.clock.call_later(delay_ms, self._on_time)

    def _on_time(self) -> None:
        self._running = Deferred.fromCoroutine(self.run())
        self._running.addBoth(self._on_done)

    def _on_done(self, result: Any) -> None:
        self._running = None
        if isinstance(result, Failure) and not isinstance(result.value, CancelledError):
            logger.error("Messages that wait for other servers could not be looked after", exc_info=result.value)
        self._wait(INTERVAL_MS)
