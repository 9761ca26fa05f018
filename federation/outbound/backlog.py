"""The backlogs on disk, and the cursor: what a restart begins from.

What changes is gathered, and one transaction writes it all: at most one each FLUSH_MS, and none while nothing federates.
The cursor moves on with it: everything up to the cursor is delivered or in a backlog.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from attrs import define, field
from twisted.internet.defer import Deferred

from federation.outbound.items import EVENT, MAX_EDUS, MAX_PDUS, Item, Receipt, Source, sticky_key
from federation.outbound.owed_receipts import OwedReceipts
from homeserver.matrix.ids import RoomId, ServerName
from homeserver.runtime.clock import Clock
from homeserver.runtime.db import Database
from homeserver.store.outbound import STICKY, BacklogRow, BacklogWrite, load_backlog, load_servers_behind, save_backlogs

logger = logging.getLogger(__name__)

FLUSH_MS: Final = 1_000
MAX_UNSAVED_ROWS: Final = 5_000
STICKY_AT_ONCE: Final = 10  # in a transaction for a server that is behind
MAX_NOTED: Final = 20_000  # gathered before they are written at once

EVERYTHING: Final = 2**62  # every position is before it

Noted = dict[tuple[str, str], int]


@define(eq=False)
class Backlog:
    """`get_cursor` says up to where all is delivered or noted; it is called at the moment of writing."""

    server_name: ServerName
    database: Database
    clock: Clock
    sources: Iterable[Source] = ()
    get_cursor: Callable[[], int] = lambda: 0
    receipts: OwedReceipts = field(factory=OwedReceipts, init=False)
    _noted: dict[ServerName, Noted] = field(factory=dict, init=False)
    _noted_count: int = field(default=0, init=False)
    _delivered: list[BacklogRow] = field(factory=list, init=False)
    _caught_up: dict[ServerName, int] = field(factory=dict, init=False)
    _saved_cursor: int = field(default=-1, init=False)
    _timer: Any = field(default=None, init=False)
    _writing: Deferred[None] | None = field(default=None, init=False)
    _waiting: list[Deferred[None]] = field(factory=list, init=False)
    _stopped: bool = field(default=False, init=False)

    async def load_servers(self) -> list[ServerName]:
        return await self.database.read(load_servers_behind)

    def note(self, server: ServerName, item: Item) -> None:
        """The server lacks the item."""
        self._note(server, (item.kind, item.key), item)
        if item.is_sticky:
            self._note(server, (STICKY, sticky_key(item.position)), item)

    def _note(self, server: ServerName, name: tuple[str, str], item: Item) -> None:
        noted = self._noted.setdefault(server, {})
        self._noted_count += name not in noted
        noted[name] = max(item.position, noted.get(name, 0))
        self._write_before_long()

    def note_receipts(self, server: ServerName, receipts: Sequence[Receipt]) -> None:
        """The server lacks these."""
        self.receipts.note(server, receipts)
        self._write_before_long()

    def _write_before_long(self) -> None:
        if self._is_full:
            self._start_writing()
        else:
            self.schedule()

    @property
    def _is_full(self) -> bool:
        return self._noted_count + self.receipts.count >= MAX_NOTED

    def has_noted(self, server: ServerName) -> bool:
        """Whether something is noted that is not in the database yet."""
        return server in self._noted

    def remove_upto(self, server: ServerName, position: int) -> None:
        """The server has everything up to the position."""
        noted = self._noted.get(server, {})
        self._keep(server, {name: at for name, at in noted.items() if at > position})
        self._caught_up[server] = max(position, self._caught_up.get(server, 0))
        self.schedule()

    def remove(self, server: ServerName, items: Sequence[Item]) -> None:
        """The server has these, or newer ones of their keys."""
        noted = self._noted.get(server, {})
        sent = {(item.kind, item.key): item.position for item in items}
        self._keep(server, {name: at for name, at in noted.items() if at > sent.get(name, -1)})
        self._delivered += [BacklogRow(server, item.kind, item.key, item.position) for item in items]
        self.schedule()

    def mark_receipts_sent(self, server: ServerName, before: Mapping[RoomId, int]) -> None:
        """The server has all receipts of these rooms that are before the positions."""
        self.receipts.mark_sent(server, before)
        self.schedule()

    def remove_all(self, server: ServerName) -> None:
        """The server is to get nothing of what it lacks."""
        self.remove_upto(server, EVERYTHING)
        self.receipts.forget(server)

    def _keep(self, server: ServerName, noted: Noted) -> None:
        self._noted_count -= len(self._noted.pop(server, {})) - len(noted)
        if noted:
            self._noted[server] = noted

    async def load_page(self, server: ServerName) -> list[Item]:
        """What to send a server next that is behind: of each room the newest event, the newest rooms first."""
        if self.is_dirty:
            await self.flush()
        edus = {source.kind: source.most_edus for source in self.sources}
        newest = {source.kind: _page_size(source) for source in self.sources if source.newest_first}
        oldest = {source.kind: _page_size(source) for source in self.sources if not source.newest_first}
        rows = await self.database.read(load_backlog, server, newest, oldest)
        return [Item(row.position, row.kind, row.key, edus=edus[row.kind]) for row in rows]

    def note_progress(self, position: int) -> None:
        """Of the log, also by what concerns nobody: a restart should not have to read it all again."""
        if position - self._saved_cursor >= MAX_UNSAVED_ROWS:
            self.schedule()

    # -- writing -----------------------------------------------------------------------------------------------------

    @property
    def is_dirty(self) -> bool:
        return bool(self._noted or self._delivered or self._caught_up or self.receipts.is_dirty)

    def schedule(self) -> None:
        """Write before long."""
        if self._timer is None and not self._stopped:
            self._timer = self.clock.call_later(FLUSH_MS, self._on_timer)

    async def flush(self) -> None:
        """Returns when everything up to now is written."""
        done: Deferred[None] = Deferred()
        self._waiting.append(done)
        self._start_writing()
        await done

    async def stop(self) -> None:
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        await self.flush()

    def _on_timer(self) -> None:
        self._timer = None
        if self.is_dirty or self.get_cursor() > self._saved_cursor:
            self._start_writing()

    def _start_writing(self) -> None:
        if self._writing is None:
            self._writing = Deferred()
            Deferred.fromCoroutine(self._write_all()).addErrback(_log_failure)

    async def _write_all(self) -> None:
        try:
            await self._write()
            while self._waiting or self._is_full:
                await self._write()
        finally:
            self._writing = None

    async def _write(self) -> None:
        """What is gathered, in one transaction. After a failure it is gathered still."""
        waiting, self._waiting = self._waiting, []
        cursor = self.get_cursor()  # notes what it passes over, so it comes before all is taken
        taken = (self._noted, self._delivered, self._caught_up)
        self._noted, self._noted_count, self._delivered, self._caught_up = {}, 0, [], {}
        receipts = self.receipts.take()
        write = BacklogWrite(cursor, _rows(taken[0]), taken[1], taken[2], receipts)
        try:
            await self.database.run(save_backlogs, write, self.server_name)
        except BaseException as error:
            self._put_back(*taken)
            self.receipts.put_back(receipts)
            for done in waiting:
                done.errback(error)
            raise
        self._saved_cursor = write.cursor
        for done in waiting:
            done.callback(None)

    def _put_back(
        self, noted: dict[ServerName, Noted], delivered: list[BacklogRow], caught_up: dict[ServerName, int]
    ) -> None:
        for server, names in noted.items():
            newer = self._noted.get(server, {})
            self._keep(server, names | newer)
        self._delivered = delivered + self._delivered
        self._caught_up = caught_up | self._caught_up
        self.schedule()


def _page_size(source: Source) -> int:
    """Two kinds of EDUs have room beside each other, and leave some for what is not durable. So do the kinds of PDUs."""
    if source.most_edus:
        return MAX_EDUS * 2 // 5 // source.most_edus
    return MAX_PDUS - STICKY_AT_ONCE if source.kind == EVENT else STICKY_AT_ONCE


def _rows(noted: dict[ServerName, Noted]) -> list[BacklogRow]:
    return [
        BacklogRow(server, kind, key, position)
        for server, names in noted.items()
        for (kind, key), position in names.items()
    ]


def _log_failure(failure: Any) -> None:
    logger.error("What other servers have not got could not be saved: %s", failure.value)
