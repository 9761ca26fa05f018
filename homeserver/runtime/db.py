"""Databases: SQLite and PostgreSQL behind one small class.

The idea: store functions are plain synchronous functions over a connection and run in database threads; a thread keeps
its connection for its life, so a transaction costs no pool check-out. SQLite has one writer thread (it can only write
once at a time anyway) and a few readers; PostgreSQL has a few threads for each. A connection that PostgreSQL ends, as when it
is restarted, is made anew, and its transaction run again; unless it broke while it was being committed, for then it may have
been.

Rejected: asyncio drivers (every statement would cross the event loop), SQLAlchemy's pool (one more lock on each
transaction), `deferToThreadPool` (copies a context and builds a Failure per call).
"""

from __future__ import annotations

import logging
import threading
import time
from asyncio import AbstractEventLoop, get_running_loop
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from random import Random
from typing import Any, TypeVar

import psycopg
import sqlalchemy
from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IReactorFromThreads
from twisted.python.failure import Failure

from homeserver.runtime.statement import Statement

logger = logging.getLogger(__name__)


class OutcomeUnknown(Exception):
    """The connection broke while this was being committed. Perhaps it was."""


# The database is away, full or busy: what services catch that try again later. Not what it says of the data given to it.
DatabaseFault = (OperationalError, InterfaceError, OutcomeUnknown)
RowExists = IntegrityError  # somebody else stored it in between

T = TypeVar("T")

_BEGIN_READ = Statement(text("BEGIN DEFERRED"))
_BEGIN_WRITE = Statement(text("BEGIN IMMEDIATE"))

SQLITE_READERS = 2
POSTGRES_WRITERS = 3
POSTGRES_READERS = 3
TRANSACTION_ATTEMPTS = 6
# PostgreSQL: serialization failure, deadlock. Both are settled by running the transaction again.
RETRYABLE_SQLSTATES = frozenset({"40001", "40P01"})
# Of connections that the server ended, or does not let in now; besides class 08.
ENDED_SQLSTATES = frozenset({"57P01", "57P02", "57P03", "57P05", "25P03", "53300"})
# For how long a transaction waits for a database that is away. Those that come later are refused until it is back.
RECONNECT_FOR_S = 10
RECONNECT_PAUSE_S = 0.1
# A server that is gone without a word is noticed within half a minute. What the URL says goes before.
_PATIENCE = {
    "connect_timeout": "10",
    "keepalives_idle": "15",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
}


class DatabaseClosed(Exception):
    """The database was asked for work after close()."""


def engine_url(url: str, data_dir: Path) -> sqlalchemy.URL:
    """The SQLAlchemy URL for a configured one; a relative SQLite path is below data_dir."""
    if url.startswith("sqlite:///"):
        path = data_dir / url.removeprefix("sqlite:///")
        return sqlalchemy.URL.create("sqlite", database=str(path))
    return sqlalchemy.make_url(url).set(drivername="postgresql+psycopg")


def make_engine(url: sqlalchemy.URL) -> Engine:
    """Its errors, which get into the log, have the statement but none of its values: these may be messages or hashes."""
    if url.drivername == "sqlite":
        return _sqlite_engine(url)
    url = url.set(query={**_PATIENCE, **url.query})
    return sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool, hide_parameters=True)


def _sqlite_engine(url: sqlalchemy.URL) -> Engine:
    engine = sqlalchemy.create_engine(
        url,
        poolclass=sqlalchemy.NullPool,
        connect_args={"check_same_thread": False, "cached_statements": 512},
        hide_parameters=True,
    )

    @event.listens_for(engine, "connect")
    def on_connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves
        # synchronous=FULL: what was acknowledged survives a power cut (WAL with NORMAL would not promise it).
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            "busy_timeout=10000",
            "cache_size=-8192",
            "temp_store=MEMORY",
            "wal_autocheckpoint=2000",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        (_BEGIN_READ if connection.get_execution_options().get("read_only") else _BEGIN_WRITE).run(connection, {})

    return engine


class Database:
    """Runs store functions in transactions, off the reactor thread.

    Order: on SQLite, writes run one after another in the order of `run` calls; nothing else is promised.
    """

    def __init__(self, engine: Engine, reactor: IReactorFromThreads) -> None:
        self.engine = engine
        self._reactor = reactor
        self._writes: SimpleQueue[_Job | None] = SimpleQueue()
        self._reads: SimpleQueue[_Job | None] = SimpleQueue()
        writers, readers = (1, SQLITE_READERS) if self.is_sqlite else (POSTGRES_WRITERS, POSTGRES_READERS)
        self._workers = [
            *(self._start_worker(self._writes, f"db-write-{n}", read_only=False) for n in range(writers)),
            *(self._start_worker(self._reads, f"db-read-{n}", read_only=True) for n in range(readers)),
        ]
        self._closed = False

    @property
    def is_sqlite(self) -> bool:
        return self.engine.dialect.name == "sqlite"

    def run(self, fn: Callable[..., T], *args: Any) -> Deferred[T]:
        """Call fn(connection, *args) in a writing transaction; it is committed when fn returns.

        fn may be run again after a deadlock or on a new connection, so it must have no effect outside the database.

        Raises (through the Deferred): what fn raises; DatabaseFault when the database is away, OutcomeUnknown among them.
        """
        return self._submit(self._writes, fn, args)

    def read(self, fn: Callable[..., T], *args: Any) -> Deferred[T]:
        """Call fn(connection, *args) in a transaction that only reads, on one consistent view."""
        return self._submit(self._reads, fn, args)

    async def close(self) -> None:
        """Finish what is queued, then end the threads and connections."""
        self._closed = True
        for worker in self._workers:
            worker.queue.put(None)
        await DeferredList([worker.stopped for worker in self._workers])

    def _submit(self, queue: SimpleQueue[_Job | None], fn: Callable[..., T], args: tuple[Any, ...]) -> Deferred[T]:
        if self._closed:
            raise DatabaseClosed
        deferred: Deferred[T] = Deferred(_ignore_cancel)
        queue.put(_Job(fn, args, deferred, _running_loop()))
        return deferred

    def _start_worker(self, queue: SimpleQueue[_Job | None], name: str, *, read_only: bool) -> _Worker:
        worker = _Worker(self.engine, queue, self._reactor, read_only=read_only)
        threading.Thread(target=worker.run, name=name, daemon=True).start()
        return worker


def _ignore_cancel(_deferred: Deferred[Any]) -> None:
    """A transaction that has begun is not called back: its caller may go, its outcome stays."""


class _Job:
    __slots__ = ("args", "deferred", "fn", "loop")

    def __init__(
        self, fn: Callable[..., Any], args: tuple[Any, ...], deferred: Deferred[Any], loop: AbstractEventLoop | None
    ) -> None:
        self.fn = fn
        self.args = args
        self.deferred = deferred
        self.loop = loop


class _Worker:
    """One thread with one connection."""

    def __init__(
        self, engine: Engine, queue: SimpleQueue[_Job | None], reactor: IReactorFromThreads, *, read_only: bool
    ) -> None:
        self.queue = queue
        self.stopped: Deferred[None] = Deferred()
        self._engine = engine
        self._reactor = reactor
        self._read_only = read_only
        self._connection: Connection | None = None
        self._is_away = False
        self._random = Random()

    def run(self) -> None:
        while (job := self.queue.get()) is not None:
            self._run_job(job)
        self._disconnect()
        self._reactor.callFromThread(self.stopped.callback, None)

    def _run_job(self, job: _Job) -> None:
        try:
            result = self._transact(job)
        except Exception:  # whatever a store function raises belongs to its caller
            self._tell(job, _fail, Failure())  # type: ignore[no-untyped-call]
        else:
            self._tell(job, _succeed, result)

    def _tell(self, job: _Job, how: Callable[[Deferred[Any], Any], None], outcome: Any) -> None:
        # PERF(a tenth of a small write's CPU): the reactor would make a timer of it, and take another turn.
        if job.loop is not None:
            job.loop.call_soon_threadsafe(how, job.deferred, outcome)
        else:
            self._reactor.callFromThread(how, job.deferred, outcome)

    def _transact(self, job: _Job) -> Any:
        failed = lost = 0
        until_s = 0.0
        while True:
            is_committing = False
            try:
                connection = self._connected()
                with connection.begin():
                    result = job.fn(connection, *job.args)
                    is_committing = not self._read_only
                return result
            except DBAPIError as error:
                if _is_lost(error):
                    self._lose()
                    if is_committing:
                        raise OutcomeUnknown from error
                if self._connection is None:
                    if lost == 0:  # a transaction may have run for long before
                        until_s = time.monotonic() + RECONNECT_FOR_S
                        if not self._is_away:
                            logger.warning("The connection to the database is lost, making a new one: %s", error.orig)
                    self._is_away = self._is_away or time.monotonic() >= until_s
                    if self._is_away:
                        raise
                    time.sleep(min(lost, 10) * RECONNECT_PAUSE_S)
                    lost += 1
                elif _is_retryable(error) and failed < TRANSACTION_ATTEMPTS - 1:
                    failed += 1
                    time.sleep(self._random.uniform(0, 0.01 * 2**failed))
                else:
                    raise

    def _connected(self) -> Connection:
        if self._connection is None:
            self._connection = self._engine.connect().execution_options(**self._options())
            self._is_away = False
        return self._connection

    def _options(self) -> dict[str, Any]:
        if self._engine.dialect.name == "sqlite" or not self._read_only:
            return {"read_only": self._read_only}
        # One view for all statements of the transaction, as SQLite's readers have: a fold's value and the log
        # position that it stands for must belong together.
        return {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _lose(self) -> None:
        if self._connection is not None:
            self._connection.invalidate()  # so that closing it says no ROLLBACK
        self._disconnect()


def _running_loop() -> AbstractEventLoop | None:
    """Of the reactor; None before it runs."""
    try:
        return get_running_loop()
    except RuntimeError:
        return None


def _is_lost(error: DBAPIError) -> bool:
    """The connection is of no use any more: the server ended it, or what the driver says is of its own, and not the server's
    word. (In the midst of `executemany` that is not always a connection which it knows to be closed.)
    """
    if error.connection_invalidated:
        return True
    if not isinstance(error.orig, psycopg.Error):
        return False
    state = error.orig.sqlstate
    return state is None or state in ENDED_SQLSTATES or state.startswith("08")


def _is_retryable(error: DBAPIError) -> bool:
    return getattr(error.orig, "sqlstate", None) in RETRYABLE_SQLSTATES


def _succeed(deferred: Deferred[Any], result: Any) -> None:
    if not deferred.called:
        deferred.callback(result)


def _fail(deferred: Deferred[Any], failure: Failure) -> None:
    if not deferred.called:
        deferred.errback(failure)
