"""Follows the log and says of each row which servers have to get it.

Rows are taken in order. Most need nothing but memory and are done within the commit's turn; where memory lacks what tells
whom a row concerns, it is read, and the rows behind it wait. When too many wait, or after a restart, the rows are read
from the log, so none is skipped and memory is bounded.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred

from federation.outbound.items import Item, Receipt, RowReader
from homeserver.matrix.ids import ServerName
from homeserver.runtime.clock import Clock
from homeserver.runtime.db import Database, DatabaseFault
from homeserver.store.log import LogRow
from homeserver.store.log_rows import load_whole_rows

logger = logging.getLogger(__name__)

MAX_WAITING: Final = 5_000
ROWS_AT_ONCE: Final = 500
RETRY_MS: Final = 1_000

Progress = Callable[[int], object]
Addressed = tuple[Item | Receipt, Sequence[ServerName]]
Offer = Callable[[Item | Receipt, Sequence[ServerName]], object]


@define(eq=False)
class Distributor:
    """`offer` is called with each item and the servers that it concerns, if there are any. position: the rows up to
    here are done; seen: the newest row that the log has told of.
    """

    database: Database
    clock: Clock
    offer: Offer
    seen: int
    sources: Iterable[RowReader]
    on_progress: Progress = lambda _position: None
    _sources: dict[str, list[RowReader]] = field(factory=dict, init=False)
    _waiting: deque[LogRow] = field(factory=deque, init=False)
    position: int = field(default=0, init=False)
    _found: list[Addressed] = field(factory=list, init=False)  # what the first row became, by its first sources
    _working: bool = field(default=False, init=False)
    _reading: bool = field(default=True, init=False)  # the rows that come are read from the log later
    _finishing: Deferred[None] | None = field(default=None, init=False)
    _stopped: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        for source in self.sources:
            for kind in source.log_kinds:
                self._sources.setdefault(kind, []).append(source)

    def start(self, position: int) -> None:
        """Begin with what the log has behind `position`."""
        self.position = position
        self._work_on()

    def stop(self) -> None:
        self._stopped = True
        self._waiting.clear()
        if self._finishing is not None:
            self._finishing.cancel()

    def on_rows(self, rows: Sequence[LogRow]) -> None:
        """Follow the log."""
        self.seen = rows[-1].position
        if self._reading or self._stopped:
            return
        self._waiting.extend(row for row in rows if row.kind in self._sources)
        if self._working:
            if len(self._waiting) > MAX_WAITING:
                self._waiting.clear()
                self._reading = True
        elif self._work():
            self._settle()
        else:
            self._work_on()

    def _work(self) -> bool:
        """Do what can be done without waiting; whether that was all."""
        while self._waiting:
            row = self._waiting[0]
            if not self._address(row):
                return False
            self._waiting.popleft()
            self.position = row.position
        return True

    def _settle(self) -> None:
        self.position = self.seen
        self.on_progress(self.position)

    def _address(self, row: LogRow) -> bool:
        """Offer what the row becomes, all at once; False when memory lacks whom it concerns."""
        while len(self._found) < len(self._sources[row.kind]):
            addressed = self._ask(self._sources[row.kind][len(self._found)], row)
            if addressed is None:
                return False
            self._found.append(addressed)
        found, self._found = self._found, []
        for item, servers in found:
            if servers:
                self.offer(item, servers)
        return True

    def _ask(self, source: RowReader, row: LogRow) -> Addressed | None:
        try:
            return source.get_addressed(row)
        except Exception:  # a row that can't be understood must not stop those behind it
            logger.exception("It is not known whom the log's row %s concerns", row.position)
            return Item(row.position, source.kind, row.key), ()

    def _work_on(self) -> None:
        self._working = True
        self._finishing = Deferred.fromCoroutine(self._finish()).addErrback(_log_failure)

    async def _finish(self) -> None:
        """Work until no row is left. From the last look at `seen` to the end there is no await."""
        try:
            while not self._stopped:
                if not self._work():
                    await self._load_missing(self._waiting[0])
                elif self._reading and self.position < self.seen:
                    await self._read()
                else:
                    self._reading = False
                    self._settle()
                    return
        finally:
            self._working = False

    async def _load_missing(self, row: LogRow) -> None:
        try:
            await self._sources[row.kind][len(self._found)].load_missing(row)
        except DatabaseFault:
            logger.exception("It could not be read whom the log's row %s concerns", row.position)
            await self.clock.sleep(RETRY_MS)
        except CancelledError:
            raise
        except Exception:
            logger.exception("It is not known whom the log's row %s concerns", row.position)
            if self._waiting and self._waiting[0] is row:
                self._waiting.popleft()
                self._found = []

    async def _read(self) -> None:
        try:
            rows = await self.database.read(load_whole_rows, self.position, self.seen, ROWS_AT_ONCE)
        except DatabaseFault:
            logger.exception("The log could not be read behind %s", self.position)
            await self.clock.sleep(RETRY_MS)
            return
        if not self._stopped:
            self._waiting.extend(row for row in rows if row.kind in self._sources)
            if not self._waiting:
                self.position = rows[-1].position if rows else self.seen


def _log_failure(failure: Any) -> None:
    if not failure.check(CancelledError):
        logger.error("Sending to other servers has stopped: %s", failure.value)
