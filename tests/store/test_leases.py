"""Leases: one owner at a time, and none that was only slow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection

from homeserver.runtime.db import engine_url, make_engine
from homeserver.store.leases import LostLease, check_lease, release_lease, renew_lease, take_lease


@pytest.fixture
def conn(database_url: str) -> Iterator[Connection]:
    engine = make_engine(engine_url(database_url, Path("/")))
    with engine.connect() as connection, connection.begin():
        yield connection
    engine.dispose()


def test_a_lease_has_one_owner_until_it_ends(conn: Connection) -> None:
    first = take_lease(conn, "sender", "one", 1000, 500)
    assert first is not None
    assert take_lease(conn, "sender", "two", 1499, 500) is None
    assert take_lease(conn, "other", "two", 1000, 500) is not None
    second = take_lease(conn, "sender", "two", 1500, 500)
    assert second is not None
    assert second.fence == first.fence + 1
    check_lease(conn, second)
    for use in (lambda: check_lease(conn, first), lambda: renew_lease(conn, first, 1600, 500)):
        with pytest.raises(LostLease, match="sender"):
            use()


def test_the_owner_renews_and_takes_again_under_the_same_fence(conn: Connection) -> None:
    lease = take_lease(conn, "sender", "one", 1000, 500)
    assert lease is not None
    renewed = renew_lease(conn, lease, 1400, 500)
    assert renewed.expires_ts_ms == 1900
    assert take_lease(conn, "sender", "two", 1600, 500) is None
    again = take_lease(conn, "sender", "one", 1700, 500)
    assert again is not None
    assert again.fence == lease.fence
    with pytest.raises(LostLease):
        renew_lease(conn, again, 2200, 500)


def test_a_released_lease_is_there_for_the_next(conn: Connection) -> None:
    lease = take_lease(conn, "sender", "one", 1000, 500)
    assert lease is not None
    release_lease(conn, lease)
    following = take_lease(conn, "sender", "two", 1001, 500)
    assert following is not None
    assert following.fence == lease.fence + 1
    release_lease(conn, lease)  # too late: it is another's
    check_lease(conn, following)
    assert take_lease(conn, "sender", "one", 1002, 500) is None
