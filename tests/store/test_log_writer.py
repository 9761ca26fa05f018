"""The log writer: order, batches, and that a bad item harms itself alone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text
from twisted.internet.defer import Deferred, DeferredList, succeed

from homeserver.runtime.db import Database, engine_url, make_engine
from homeserver.store.log import LogRow, load_rows
from homeserver.store.log_writer import LogItem, LogWriter
from tests.kit.reactor import get_reactor, run_in_reactor, wait


class Log:
    """A log writer on a database, driven from the test's thread."""

    def __init__(self, url: str) -> None:
        self.database = Database(make_engine(engine_url(url, Path("/"))), get_reactor())
        self.writer = LogWriter(self.database)
        self.rows: list[LogRow] = []
        self.writer.follow(self.rows.extend)

    def submit(self, *items: LogItem) -> list[tuple[bool, Any]]:
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
