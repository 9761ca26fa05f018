"""Notices what other processes write: commands of the admin, and other workers on the same database.

Asks for the log's position now and then, which costs one read of one row. What is behind it, the log writer reads in its turn.
"""

from __future__ import annotations

import logging
from typing import Any

from attrs import define, field
from sqlalchemy.exc import DBAPIError
from twisted.internet.defer import Deferred

from homeserver.runtime.clock import Clock
from homeserver.runtime.db import Database
from homeserver.store.log import load_head_position
from homeserver.store.log_writer import LogWriter

logger = logging.getLogger(__name__)

INTERVAL_MS = 500


@define(eq=False)
class LogTail:
    database: Database
    log: LogWriter
    clock: Clock
    _timer: Any = field(default=None, init=False)
    _stopped: bool = field(default=False, init=False)

    def start(self) -> None:
        self._timer = self.clock.call_later(INTERVAL_MS, self._poll)

    async def stop(self) -> None:
        self._stopped = True
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def _poll(self) -> None:
        Deferred.fromCoroutine(self._look()).addBoth(self._again)

    async def _look(self) -> None:
        try:
            position = await self.database.read(load_head_position)
        except DBAPIError:
            logger.exception("The log's position could not be read")
            return
        if position > self.log.position:
            self.log.catch_up()

    def _again(self, _result: object) -> None:
        if not self._stopped:
            self.start()
