"""The log writer: order, batches, and that a bad item harms itself alone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import psycopg
import pytest
from sqlalchemy import Connection, text
from twisted.internet.defer import Deferred, DeferredList, succeed

from homeserver.matrix.ids import RoomId
from homeserver.runtime.db import Database, OutcomeUnknown, engine_url, make_engine
from homeserver.runtime.statement import Statement
from homeserver.store.log import LogRow, load_rows
from homeserver.store.log_writer import COMMIT_ATTEMPTS, LogItem, LogWriter, LostCompare
from homeserver.store.room_writes import RoomWrite
from tests.kit.reactor import get_reactor, run_in_reactor, wait

on_postgres = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
_END_CONNECTION = Statement(text("SELECT pg_terminate_backend(pg_backend_pid()), CAST(:number AS INTEGER)"), "number")


class Log:
    """A log writer on a database, driven from the test's thread."""

    def __init__(self, url: str) -> None:
        self.database = Database(make_engine(engine_url(url, Path("/"))), get_reactor())
        self.writer = LogWriter(self.database)
        self.rows: list[LogRow] = []
        self.writer.follow(self.rows.extend)

    def submit(self, *items: LogItem | RoomWrite) -> list[tuple[bool, Any]]:
        """(whether it was written, position or failure) of each."""

        def go() -> Deferred[Any]:
            return DeferredList([self.writer.submit(item) for item in items], consumeErrors=True)

        result: list[tuple[bool, Any]] = run_in_reactor(go)
        return result

    def stored(self) -> list[tuple[int, str]]:
        rows = wait(self.database.read(load_rows, 0, 10_000))
        return [(row.position, row.key) for row in rows]


@pytest.fixture
def log(database_url: str) -> Iterator[Log]:
    log = Log(database_url)
    yield log
    run_in_reactor(log.database.close)


def _item(key: str, save: Any = None) -> LogItem:
    return LogItem("test", key, {"key": key}, save)


def _fail(conn: Connection, _position: int) -> None:
    conn.execute(text("SELECT * FROM there_is_no_such_table"))


def test_positions_are_gap_free_in_the_order_of_submission(log: Log) -> None:
    keys = [f"@user{number}:test" for number in range(600)]
    results = log.submit(*map(_item, keys))
    assert [result for _, result in results] == list(range(1, 601))
    assert log.stored() == list(enumerate(keys, 1))


def test_followers_see_every_row_once_in_order_before_the_submitter(log: Log) -> None:
    seen_at_answer: list[int] = []

    def go() -> Deferred[Any]:
        deferreds = [log.writer.submit(_item(f"@{number}:test")) for number in range(50)]
        for deferred in deferreds:
            deferred.addCallback(lambda position: seen_at_answer.append(position - len(log.rows)))
        return DeferredList(deferreds)

    run_in_reactor(go)
    assert [row.position for row in log.rows] == list(range(1, 51))
    assert all(missing <= 0 for missing in seen_at_answer)


def test_bad_item_harms_itself_alone_and_leaves_no_gap(log: Log) -> None:
    results = log.submit(_item("@first:test"), _item("@a:test"), _item("@bad:test", _fail), _item("@b:test"))
    assert [written for written, _ in results] == [True, True, False, True]
    assert log.stored() == [(1, "@first:test"), (2, "@a:test"), (3, "@b:test")]


def test_raising_follower_stops_neither_the_others_nor_the_write(log: Log) -> None:
    def broken(_rows: Any) -> None:
        raise RuntimeError("a follower's own fault")

    log.writer.follow(broken)
    later: list[LogRow] = []
    log.writer.follow(later.extend)
    assert log.submit(_item("@a:test")) == [(True, 1)]
    assert [row.position for row in later] == [1]


def test_flush_waits_for_what_was_submitted(log: Log) -> None:
    def go() -> Deferred[Any]:
        log.writer.submit(_item("@a:test"))
        log.writer.submit(_item("@b:test"))
        return Deferred.fromCoroutine(log.writer.flush()).addCallback(lambda _: succeed(len(log.rows)))

    assert run_in_reactor(go) == 2


def test_what_is_there_to_be_handled_goes_into_the_same_commit(log: Log) -> None:
    commits: list[list[str]] = []
    log.writer.follow(lambda rows: commits.append([row.key for row in rows]))

    def go() -> Deferred[Any]:
        written: list[Deferred[int]] = [Deferred(), Deferred()]
        for key, answer in zip(("@b:test", "@c:test"), written, strict=True):
            asyncio.get_running_loop().call_soon(lambda k=key, a=answer: log.writer.submit(_item(k)).chainDeferred(a))
        return DeferredList([log.writer.submit(_item("@a:test")), *written])

    run_in_reactor(go)
    assert commits == [["@a:test", "@b:test", "@c:test"]]


def test_rows_of_others_that_could_not_be_read_are_told_later_and_in_order(
    log: Log, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Log(database_url)
    other.submit(_item("@other:test"))
    with monkeypatch.context() as broken:
        broken.setattr("homeserver.store.log_writer.load_whole_rows", lambda conn, *_: _fail(conn, 0))
        assert log.submit(_item("@own:test")) == [(True, 2)]
    assert log.rows == []
    assert log.submit(_item("@next:test")) == [(True, 3)]
    assert [(row.position, row.key) for row in log.rows] == [(1, "@other:test"), (2, "@own:test"), (3, "@next:test")]
    run_in_reactor(other.database.close)


def test_whoever_goes_away_stops_neither_his_write_nor_the_next(log: Log) -> None:
    def go() -> Deferred[Any]:
        log.writer.submit(_item("@first:test"))
        for key in ("@queued:test", "@bad:test"):
            gone = log.writer.submit(_item(key, _fail if key == "@bad:test" else None))
            gone.addErrback(lambda _: None)
            gone.cancel()
        return log.writer.submit(_item("@next:test"))

    assert run_in_reactor(go) == 3
    assert log.stored() == [(1, "@first:test"), (2, "@queued:test"), (3, "@next:test")]


class BrokenCommits:
    """COMMITs of the writers whose connection breaks: before the server has it, or before its word is back."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.expected: list[str] = []
        self._commit = psycopg.Connection.commit
        monkeypatch.setattr(psycopg.Connection, "commit", lambda connection: self._break(connection))

    def _break(self, connection: psycopg.Connection[Any]) -> None:
        if not self.expected or connection.read_only:
            self._commit(connection)
            return
        if self.expected.pop(0) == "after":
            self._commit(connection)
        connection.close()
        raise psycopg.OperationalError("server closed the connection unexpectedly")


@on_postgres
@pytest.mark.parametrize("breaks", [["before"], ["after"], ["before", "before", "after"], ["after", "before"]])
def test_commit_that_breaks_off_is_done_once(log: Log, monkeypatch: pytest.MonkeyPatch, breaks: list[str]) -> None:
    commits = BrokenCommits(monkeypatch)
    commits.expected = list(breaks)
    keys = [f"@user{number}:test" for number in range(5)]
    results = log.submit(*map(_item, keys))
    assert [result for _, result in results] == [1, 2, 3, 4, 5]
    assert not commits.expected
    assert log.stored() == list(enumerate(keys, 1))
    assert [row.key for row in log.rows] == keys


@on_postgres
def test_commit_of_which_nothing_can_be_learned_is_not_tried_again(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    commits = BrokenCommits(monkeypatch)
    commits.expected = ["after"] + ["before"] * COMMIT_ATTEMPTS
    results = log.submit(_item("@a:test"), _item("@b:test"))
    assert [(written, failure.type) for written, failure in results] == [(False, OutcomeUnknown)] * 2
    assert log.stored() == [(1, "@a:test"), (2, "@b:test")]
    assert log.submit(_item("@c:test")) == [(True, 3)]
    assert [row.position for row in log.rows] == [1, 2, 3]


@on_postgres
def test_connection_that_broke_within_a_batch_of_rows_is_made_anew(log: Log) -> None:
    attempts: list[int] = []

    def save(conn: Connection, _position: int) -> None:
        attempts.append(1)
        if len(attempts) == 1:
            _END_CONNECTION.run_many(conn, [{"number": number} for number in range(3)])

    assert log.submit(_item("@a:test", save), _item("@b:test")) == [(True, 1), (True, 2)]
    assert len(attempts) == 2
    assert log.stored() == [(1, "@a:test"), (2, "@b:test")]


@on_postgres
def test_what_was_refused_in_a_commit_that_broke_off_stays_refused(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    outdated = RoomWrite(RoomId("!room:test"), base_version=7, events=[], head=cast("Any", None))
    BrokenCommits(monkeypatch).expected = ["after"]
    (is_written, failure), *others = log.submit(outdated, _item("@a:test"), _item("@b:test"))
    assert (is_written, failure.type) == (False, LostCompare)
    assert others == [(True, 1), (True, 2)]
    assert log.stored() == [(1, "@a:test"), (2, "@b:test")]


@on_postgres
def test_commit_that_breaks_off_behind_nothing_but_refusals_leaves_them_refused(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    outdated = RoomWrite(RoomId("!room:test"), base_version=7, events=[], head=cast("Any", None))
    commits = BrokenCommits(monkeypatch)
    commits.expected = ["before"]
    [(is_written, failure)] = log.submit(outdated)
    assert not commits.expected
    assert (is_written, failure.type) == (False, LostCompare)
    assert log.submit(_item("@a:test")) == [(True, 1)]
