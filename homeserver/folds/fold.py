"""A fold: a bounded cache whose entries are kept true by the log.

An entry is loaded from the database together with the log position that it stands for; from then on the log's rows are
applied to it, so nobody ever calls "invalidate". Rows that arrive while an entry is being loaded are kept and applied
behind the loaded position; a read may also be ahead of the followers (a commit is visible before they are told of it), so
rows up to the loaded position are left out. The law, tested for every fold: loaded at p0, then the rows to p1 applied,
equals loaded at p1.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from typing import Generic, TypeVar

from sqlalchemy import Connection
from twisted.internet.defer import Deferred

from homeserver.runtime.coroutine import shielded
from homeserver.runtime.db import Database
from homeserver.store.log import LogRow, load_head_position

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Fold(Generic[K, V]):
    """`load(conn, keys)` gives a value for each key that it is asked for; `apply(key, value, row)` the value after a row
    that `keys_of(row)` said concerns it, or None where the row alone does not tell (it is then loaded again). `on_gone` is
    told of keys that memory no longer has."""

    def __init__(
        self,
        database: Database,
        *,
        load: Callable[[Connection, Sequence[K]], dict[K, V]],
        keys_of: Callable[[LogRow], Iterable[K]],
        apply: Callable[[K, V, LogRow], V | None],
        max_entries: int,
        on_gone: Callable[[K], object] | None = None,
    ) -> None:
        self._database = database
        self._load = load
        self._keys_of = keys_of
        self._apply = apply
        self._max_entries = max_entries
        self._on_gone = on_gone
        self._entries: OrderedDict[K, V] = OrderedDict()
        self._loading: dict[K, _Loading[V]] = {}
        self._followed = 0  # the position of the newest row that we were given
        self._ahead: dict[K, int] = {}  # entries that stand for a later position than that, until it is reached

    def get(self, key: K) -> V | None:
        """The value if it is in memory."""
        value = self._entries.get(key)
        # PERF: the order says nothing before some may fall out; and what is hot is in order by then.
        if value is not None and len(self._entries) > self._max_entries // 2:
            self._entries.move_to_end(key)
        return value

    def get_many(self, keys: Iterable[K]) -> dict[K, V]:
        """Those of the values that are in memory. PERF: a third of the CPU of that many `get`."""
        entries = self._entries
        found = {key: value for key in keys if (value := entries.get(key)) is not None}
        if len(entries) > self._max_entries // 2:
            for key in found:
                entries.move_to_end(key)
        return found

    def peek(self, key: K) -> V | None:
        """The value if it is in memory, which it does not use up."""
        return self._entries.get(key)

    async def load(self, key: K) -> V:
        value = self.get(key)
        if value is not None:
            return value
        return (await self.load_many([key]))[key]

    async def load_many(self, keys: Collection[K]) -> dict[K, V]:
        """Values for all keys, in one read for those that are not in memory."""
        found = {key: value for key in keys if (value := self.get(key)) is not None}
        missing = [key for key in dict.fromkeys(keys) if key not in found]
        mine = [key for key in missing if key not in self._loading]
        others = {key: self._loading[key].wait() for key in missing if key in self._loading}
        if mine:
            # Others may wait for the same: the read goes on when who asked first gives up.
            found |= await shielded(self._load_now(mine))
        for key, waiting in others.items():
            found[key] = await waiting
        return found

    def on_rows(self, rows: Sequence[LogRow]) -> None:
        """Follow the log."""
        for row in rows:
            for key in self._keys_of(row):
                if self._ahead and row.position <= self._ahead.get(key, 0):
                    continue
                if key in self._entries:
                    value = self._apply(key, self._entries[key], row)
                    if value is not None:
                        self._entries[key] = value
                    else:
                        self._drop(key)
                elif key in self._loading:
                    self._loading[key].rows.append(row)
        if rows:
            self._followed = rows[-1].position
        if self._ahead:
            self._ahead = {key: position for key, position in self._ahead.items() if position > self._followed}

    def drop_where(self, matches: Callable[[K], bool]) -> None:
        """Have the keys that match loaded anew when they are next asked for: what no row tells happened to them. O(n)."""
        for key in [key for key in self._entries if matches(key)]:
            self._drop(key)
        for key, loading in self._loading.items():
            loading.is_stale |= matches(key)

    def is_loading(self, key: K) -> bool:
        return key in self._loading

    def _drop(self, key: K) -> None:
        del self._entries[key]
        self._ahead.pop(key, None)
        if self._on_gone is not None:
            self._on_gone(key)

    async def _load_now(self, keys: list[K]) -> dict[K, V]:
        for key in keys:
            self._loading[key] = _Loading()
        try:
            position, values = await self._database.read(self._load_at, keys)
        except BaseException as error:
            for key in keys:
                self._loading.pop(key).fail(error)
                if self._on_gone is not None:
                    self._on_gone(key)
            raise
        found = {}
        for key in keys:
            value = self._install(key, values[key], position)
            found[key] = value if value is not None else await self.load(key)
        return found

    def _load_at(self, conn: Connection, keys: Sequence[K]) -> tuple[int, dict[K, V]]:
        return load_head_position(conn), self._load(conn, keys)

    def _install(self, key: K, value: V, position: int) -> V | None:
        """Bring a loaded value up to date and keep it; None if it must be loaded once more."""
        loading = self._loading.pop(key)
        newest: V | None = None if loading.is_stale else value
        for row in loading.rows:
            if row.position > position and newest is not None:
                newest = self._apply(key, newest, row)
        if newest is not None:
            self._entries[key] = newest
            if position > self._followed:
                self._ahead[key] = position
            if len(self._entries) > self._max_entries:
                self._drop(next(iter(self._entries)))
        loading.succeed(newest if newest is not None else value)
        return newest


class _Loading(Generic[V]):
    def __init__(self) -> None:
        self.rows: list[LogRow] = []
        self.is_stale = False
        self._waiting: list[Deferred[V]] = []

    def wait(self) -> Deferred[V]:
        waiting: Deferred[V] = Deferred()
        self._waiting.append(waiting)
        return waiting

    def succeed(self, value: V) -> None:
        for waiting in self._waiting:
            if not waiting.called:
                waiting.callback(value)

    def fail(self, error: BaseException) -> None:
        for waiting in self._waiting:
            if not waiting.called:
                waiting.errback(error)
