"""The log writer: one per process, through which every durable change goes.

While a commit is in flight new work queues; then all of it goes in one transaction, together with what the requests that
are there already bring. So there is no timer: alone, an item waits for one commit; under load, the commits grow larger and
not more. Inside the transaction:

    1. lock the heads of the rooms, ascending, and compare their versions with what each write was built on
    2. take the positions from the log head, which is held to the commit: positions are commit-ordered
    3. the rows, in a fixed number of statements; then commit

Invariants:
- An item's Deferred fires after the commit that made it durable, and after all followers have seen its rows; except where
  others' rows before them could not be read, for then followers wait for those.
- Followers see all rows, in order, each once.
- A room's writes are built on each other before they are committed. So when one fails, all those of its room that wait
  behind it fail with it (LostCompare), before its caller learns of it: none can be taken for a later head's child.
- A batch that fails is tried again item by item, so a bad item harms itself alone.
- When the outcome of a commit is unknown (the connection broke), the log itself says whether it is there. Where it can't be
  asked, either, the whole batch fails, and is not tried again: nothing is done twice.
- Other processes write to the same log. No position is left out, but for places that history will need (RoomWrite.free). So a
  commit of ours that does not begin right behind what followers have seen shows that others may have been first: their rows
  are read and told before ours.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from attrs import define, field, frozen
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, IntegrityError
from twisted.internet.defer import Deferred

from homeserver.matrix.ids import EventId, RoomId
from homeserver.runtime.coroutine import next_turn
from homeserver.runtime.db import Database, DatabaseFault, OutcomeUnknown
from homeserver.store.log import (
    LogRow,
    MembershipChange,
    load_rows,
    membership_of_row,
    membership_row,
    save_rows,
    take_positions,
)
from homeserver.store.log_rows import load_whole_rows
from homeserver.store.room_writes import NewEvent, RoomWrite, load_transactions, lock_heads, write_rooms

logger = logging.getLogger(__name__)

BATCH_ITEMS = 256
QUIET_TURNS = 3  # of the event loop, of some 10 us each
GATHER_S = 0.01  # and one turn, however much others have to do in it
FOREIGN_ROWS = 1_000  # read at once
MAX_POSITION = 2**62
COMMIT_ATTEMPTS = 5


class LostCompare(Exception):
    """The room's head moved on (or a write it was built on failed): reload it, build again."""


class DuplicateTransaction(Exception):
    """The client did this transaction before; `event_id` is its answer."""

    def __init__(self, event_id: EventId) -> None:
        super().__init__(event_id)
        self.event_id = event_id


@define
class LogItem:
    """A durable change that is not an event: one row of the log (and `also` some more, as kind, key and data, at the
    positions that follow), and what `save` writes with them; it gets the first position, and may fill in the data.
    """

    kind: str
    key: str
    data: dict[str, Any]
    save: Callable[[Connection, int], None] | None = None
    also: Sequence[tuple[str, str, dict[str, Any]]] = ()

    @property
    def free(self) -> int:
        return 0

    @property
    def size(self) -> int:
        return 1 + len(self.also)

    @property
    def membership(self) -> MembershipChange | None:
        return membership_of_row(self.kind, self.data)


Item = LogItem | RoomWrite


class Follower(Protocol):
    """Called on the reactor thread after each commit. It must not wait and must not raise."""

    def __call__(self, rows: Sequence[LogRow], /) -> None: ...


class WriteObserver(Protocol):
    """Told of room writes before their rows are followed: on_committed, or on_failed once per room."""

    def on_committed(self, write: RoomWrite, /) -> None: ...

    def on_failed(self, write: RoomWrite, /) -> None: ...

    def on_foreign(self, room_id: RoomId, /) -> None:
        """Another process wrote the room."""
        ...


@define(eq=False)
class _Queued:
    item: Item
    deferred: Deferred[int]
    failed: bool = False
    done: bool = False

    def succeed(self, first: int) -> None:
        self.done = True
        self.deferred.callback(first)

    def fail(self, error: Exception) -> None:
        self.failed = self.done = True
        self.deferred.errback(error)


@frozen
class _Batch:
    """What one transaction did: the first position of each item, or why it was left out."""

    firsts: list[int | None]
    errors: dict[int, Exception]
    rows: list[LogRow]


@define(eq=False)
class LogWriter:
    """Appends to the log in batches; see the module's text."""

    database: Database
    position: int = 0
    _queue: list[_Queued] = field(factory=list, init=False)
    _in_flight: Deferred[None] | None = field(default=None, init=False)
    _followers: list[Follower] = field(factory=list, init=False)
    _rooms: WriteObserver | None = field(default=None, init=False)
    _last_size: int = field(default=0, init=False)
    _is_behind: bool = field(default=False, init=False)

    def follow(self, follower: Follower) -> None:
        """Give the follower all rows from now on. Followers are called in the order in which they came."""
        self._followers.append(follower)

    def observe_rooms(self, observer: WriteObserver) -> None:
        self._rooms = observer

    def submit(self, item: Item) -> Deferred[int]:
        """Queue an item. Fires with its (first) position once it is durable and followed.

        Raises (through the Deferred): LostCompare, DuplicateTransaction, or what `save` raised.
        """
        # It has no canceller: whoever goes away has his CancelledError at once, and what is queued is written.
        deferred: Deferred[int] = Deferred()
        self._queue.append(_Queued(item, deferred))
        self._start()
        return deferred

    def catch_up(self) -> None:
        """Read and tell what other processes have written since."""
        self._is_behind = True
        self._start()

    def _start(self) -> None:
        if self._in_flight is None:
            self._in_flight = Deferred.fromCoroutine(self._drain())
            if self._in_flight.called:
                self._in_flight = None

    async def flush(self) -> None:
        """Wait until all that was submitted is written."""
        while self._in_flight is not None:
            waiting: Deferred[None] = Deferred()
            self._in_flight.chainDeferred(waiting)
            await waiting

    async def _drain(self) -> None:
        while self._queue or self._is_behind:
            if self._is_behind:
                self._is_behind = False
                await self._read_foreign(MAX_POSITION)
                continue
            await self._gather()
            batch, self._queue = self._queue[:BATCH_ITEMS], self._queue[BATCH_ITEMS:]
            await self._write(batch)
        self._in_flight = None

    async def _gather(self) -> None:
        """Have the requests that wait to be read handled first, as long as they bring more.

        PERF(a quarter of the CPU of claims by 8 clients): whoever came first had a commit alone, and the others the next one.
        Those whom the last commit answered mostly come again: while there are less, a few turns more are waited.
        """
        seen = quiet = 0
        until_s: float | None = None
        while len(self._queue) < BATCH_ITEMS:
            quiet = quiet + 1 if len(self._queue) == seen else 0
            if quiet > (QUIET_TURNS if seen < self._last_size else 0):
                break
            seen = len(self._queue)
            now_s = await next_turn()
            until_s = until_s or now_s + GATHER_S
            if now_s >= until_s:
                break
        self._last_size = len(self._queue)

    async def _write(self, batch: list[_Queued]) -> None:
        try:
            done = await self._transact([queued.item for queued in batch])
        except OutcomeUnknown as error:
            for queued in batch:
                if not queued.done:
                    self._fail(queued, error)
            return
        except Exception as error:  # the database refused the batch, or is gone
            if len(batch) == 1:
                self._fail(batch[0], await self._explain(batch[0].item, error))
            else:
                await self._write_one_by_one(batch)
            return
        has_seen = True
        if done.rows and done.rows[0].position != self.position + 1:
            has_seen = await self._read_foreign(done.rows[0].position - 1)
        self._settle(batch, done, is_next=has_seen)

    async def _read_foreign(self, upto: int) -> bool:
        """Tell the followers of others' rows, up to a position. Those of the rooms' heads that they moved are read anew.

        False where they could not be read: the next poll, or the next commit of ours, tries again.
        """
        while self.position < upto:
            try:
                rows = await self.database.read(load_whole_rows, self.position, upto, FOREIGN_ROWS)
            except DBAPIError:
                logger.exception("What other processes wrote could not be read")
                return False
            if not rows:
                return True
            self.position = rows[-1].position
            if self._rooms is not None:
                for room_id in {row.key for row in rows if row.kind == "event"}:
                    self._rooms.on_foreign(RoomId(room_id))
            self._tell(rows)
        return True

    async def _write_one_by_one(self, batch: list[_Queued]) -> None:
        """Each item in a transaction of its own; what a failed write's room has behind it fails with it."""
        for index, queued in enumerate(batch):
            if not queued.done:
                await self._write([queued])
                if queued.failed and isinstance(queued.item, RoomWrite):
                    self._fail_chained(queued, batch[index + 1 :])

    async def _explain(self, item: Item, error: Exception) -> Exception:
        """A refused transaction id is no fault: it was done before, and has its answer."""
        if isinstance(error, IntegrityError) and isinstance(item, RoomWrite) and item.transaction is not None:
            try:
                known = await self.database.read(load_transactions, [item.transaction])
            except DatabaseFault:
                return error
            if item.transaction in known:
                return DuplicateTransaction(known[item.transaction])
        return error

    async def _transact(self, items: list[Item]) -> _Batch:
        """Raises: OutcomeUnknown; what the database says."""
        attempted: list[_Batch] = []
        for _ in range(COMMIT_ATTEMPTS):
            try:
                return await self.database.run(write_batch, items, attempted)
            except OutcomeUnknown as error:
                if not attempted:  # all was refused, and nothing written
                    continue
                logger.warning("The outcome of a commit is unknown, reading it back: %s", error.__cause__)
                if await self._is_written(attempted[0].rows, error):
                    return attempted[0]
        raise OutcomeUnknown

    async def _is_written(self, rows: Sequence[LogRow], why: Exception) -> bool:
        """What stands at the rows' positions tells. Raises: OutcomeUnknown, also where there are no rows."""
        for _ in range(COMMIT_ATTEMPTS if rows else 0):
            try:
                found = await self.database.run(_load_settled, rows[0].position, len(rows))
            except DatabaseFault as error:
                logger.warning("It could not be read back: %s", error)
            else:
                return [_identity(row) for row in found] == [_identity(row) for row in rows]
        raise OutcomeUnknown from why

    def _settle(self, batch: list[_Queued], done: _Batch, *, is_next: bool) -> None:
        """With `is_next`, the rows are right behind what followers have seen. Else they are told when those between are read."""
        for index, error in done.errors.items():
            queued = batch[index]
            if not queued.done:
                self._fail(queued, error)
        if done.rows and is_next:
            self.position = done.rows[-1].position
        for queued, first in zip(batch, done.firsts, strict=True):
            if first is not None and isinstance(queued.item, RoomWrite):
                _settle_snapshots(queued.item)
                if self._rooms is not None:
                    self._rooms.on_committed(queued.item)
        if is_next:
            self._tell(done.rows)
        for queued, first in zip(batch, done.firsts, strict=True):
            if first is not None:
                queued.succeed(first)

    def _tell(self, rows: Sequence[LogRow]) -> None:
        if not rows:
            return
        for follower in self._followers:
            try:
                follower(rows)
            except Exception:  # a follower's fault must not stop the others or the write
                logger.exception("A follower of the log failed at %s", rows[0].position)

    def _fail(self, queued: _Queued, error: Exception) -> None:
        if isinstance(queued.item, RoomWrite):
            self._fail_chained(queued, self._queue)
            if self._rooms is not None:
                self._rooms.on_failed(queued.item)
        queued.fail(error)

    def _fail_chained(self, failed: _Queued, waiting: list[_Queued]) -> None:
        """Fail what waits behind a failed write of the same room."""
        assert isinstance(failed.item, RoomWrite)
        room_id = failed.item.room_id
        chained = [
            queued
            for queued in waiting
            if queued is not failed
            and not queued.done
            and isinstance(queued.item, RoomWrite)
            and queued.item.room_id == room_id
        ]
        self._queue = [queued for queued in self._queue if queued not in chained]
        for queued in chained:
            queued.fail(LostCompare(room_id))


def _settle_snapshots(write: RoomWrite) -> None:
    for new in write.events:
        for snapshot in (new.before, new.after):
            if snapshot is not None:
                snapshot.settle()
    write.head.snapshot.settle()


def _identity(row: LogRow) -> tuple[int, str, str, dict[str, Any]]:
    return row.position, row.kind, row.key, row.data


def _load_settled(conn: Connection, first: int, count: int) -> list[LogRow]:
    """The rows at these positions, once nobody is writing any: the commit that broke off may still be going on."""
    take_positions(conn, 0)
    return load_rows(conn, first - 1, count)


def write_batch(conn: Connection, items: Sequence[Item], attempted: list[_Batch]) -> _Batch:
    """One transaction. `attempted` is given what it did before the commit, to settle an unknown outcome."""
    errors = _compare(conn, items)
    going = [item for index, item in enumerate(items) if index not in errors]
    attempted.clear()
    if not going:
        return _Batch([None] * len(items), errors, [])
    first = take_positions(conn, sum(item.free + item.size for item in going))
    done = _place(items, errors, first)
    writes = []
    for item, position in zip(items, done.firsts, strict=True):
        if position is None:
            continue
        if isinstance(item, RoomWrite):
            writes.append((item, position))
        elif item.save is not None:
            item.save(conn, position)
    if writes:
        write_rooms(conn, writes)
    save_rows(conn, done.rows)
    attempted.append(done)
    return done


def _compare(conn: Connection, items: Sequence[Item]) -> dict[int, Exception]:
    """Lock the rooms' heads; the items that can't be written, by index, and why."""
    writes = [(index, item) for index, item in enumerate(items) if isinstance(item, RoomWrite)]
    versions = lock_heads(conn, list({write.room_id for _, write in writes}))
    errors: dict[int, Exception] = {}
    failed = set()
    for index, write in writes:
        if write.room_id in failed or versions.get(write.room_id, 0) != write.base_version:
            failed.add(write.room_id)
            errors[index] = LostCompare(write.room_id)
        else:
            versions[write.room_id] = write.new_version
    return errors


def _event_row(room_id: str, position: int, new: NewEvent) -> LogRow:
    data: dict[str, Any] = {"event_id": new.event.event_id}
    if new.redacts is not None:
        data["redacts"] = new.redacts
    return LogRow(position, "event", room_id, data, new.event, new.deltas, new.membership)


def _place(items: Sequence[Item], errors: dict[int, Exception], first: int) -> _Batch:
    """Give the items their positions, in order, and make their rows."""
    firsts: list[int | None] = []
    rows: list[LogRow] = []
    for index, item in enumerate(items):
        if index in errors:
            firsts.append(None)
            continue
        first += item.free
        firsts.append(first)
        if isinstance(item, RoomWrite):
            if item.state is not None:
                rows.append(LogRow(first, "event", item.room_id, {}, None, item.state.deltas))
                rows += [
                    membership_row(item.room_id, first + n, change)
                    for n, change in enumerate(item.state.memberships, 1)
                ]
            for new, position in item.place(first):
                rows.append(_event_row(item.room_id, position, new))
                rows += [membership_row(item.room_id, position + n, change) for n, change in enumerate(new.others, 1)]
        else:
            rows.append(LogRow(first, item.kind, item.key, item.data, membership=item.membership))
            rows += [LogRow(first + 1 + n, *more) for n, more in enumerate(item.also)]
        first += item.size
    return _Batch(firsts, errors, rows)
