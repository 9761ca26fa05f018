"""Statements that go straight to the driver: values by name, and SQLAlchemy's errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, bindparam, delete, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from homeserver.runtime.db import engine_url, make_engine
from homeserver.runtime.statement import Statement
from homeserver.store.tables.e2ee import fallback_keys as f
from homeserver.store.upsert import insert_if_absent

KEY = {"user_id": "@a:here", "device_id": "D", "algorithm": "x", "key_id": "1", "json": b"{}", "is_used": False}
_INSERT = Statement(f.insert())
_INSERT_IF_ABSENT = Statement(insert_if_absent(f))
_UNUSED = Statement(select(f.c.algorithm).where(f.c.device_id == bindparam("device"), f.c.is_used.is_(False)))
_USE = Statement(update(f).where(f.c.algorithm == bindparam("of")).values(is_used=True))
_DELETE_ALL = Statement(delete(f))


@pytest.fixture
def engine(database_url: str) -> Any:
    engine = make_engine(engine_url(database_url, Path("/")))
    yield engine
    engine.dispose()


def test_statements_take_values_by_name_and_count_what_they_change(engine: Engine) -> None:
    with engine.connect() as connection, connection.begin():
        assert _INSERT_IF_ABSENT.run_many(connection, [KEY, KEY | {"algorithm": "y"}, KEY]) == 2
        assert _INSERT_IF_ABSENT.run_many(connection, []) == 0
        assert sorted(_UNUSED.all(connection, {"device": "D"})) == [("x",), ("y",)]
        assert _USE.run(connection, {"of": "x"}) == 1
        assert _UNUSED.first(connection, {"device": "D"}) == ("y",)
        assert _DELETE_ALL.run(connection, {}) == 2
        assert _UNUSED.first(connection, {"device": "D"}) is None


def test_errors_are_those_of_sqlalchemy(engine: Engine) -> None:
    with engine.connect() as connection:
        with pytest.raises(IntegrityError), connection.begin():
            _INSERT.run(connection, KEY)
            _INSERT.run(connection, KEY)
        with connection.begin():
            assert _UNUSED.all(connection, {"device": "D"}) == []
        with pytest.raises(DBAPIError) as refused, connection.begin():
            Statement(text("SELECT nothing FROM nowhere")).all(connection, {})
        assert not refused.value.connection_invalidated


def test_errors_tell_no_values(engine: Engine) -> None:
    secret = KEY | {"json": b"geheim"}
    with engine.connect() as connection:
        for insert in (_INSERT.run, lambda conn, values: conn.execute(f.insert(), values)):
            with pytest.raises(IntegrityError) as refused, connection.begin():
                insert(connection, secret)
                insert(connection, secret)
            assert "INSERT INTO" in str(refused.value)
            assert "geheim" not in str(refused.value)


def test_a_broken_connection_is_told_and_given_up(engine: Engine) -> None:
    with engine.connect() as connection:
        with pytest.raises(DBAPIError) as broken, connection.begin():
            driver: Any = connection.connection.dbapi_connection
            driver.close()
            _UNUSED.all(connection, {"device": "D"})
        assert broken.value.connection_invalidated
        assert connection.invalidated
