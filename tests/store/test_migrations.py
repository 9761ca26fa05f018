"""The migrations make the schema that the tables describe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, inspect, text

from homeserver.runtime.db import engine_url, make_engine
from homeserver.store import migrations
from homeserver.store.migrations import m0038_timeline_gaps
from homeserver.store.tables import metadata


def _columns(engine: Engine, table: str) -> dict[str, Any]:
    inspector = inspect(engine)
    return {column["name"]: (str(column["type"]), column["nullable"]) for column in inspector.get_columns(table)}


def _indexes(engine: Engine, table: str) -> set[tuple[str, tuple[str, ...]]]:
    inspector = inspect(engine)
    indexes = {(index["name"] or "", tuple(index["column_names"])) for index in inspector.get_indexes(table)}
    key = inspector.get_pk_constraint(table)
    return indexes | {("primary key", tuple(key["constrained_columns"]))}


@pytest.fixture
def engine(database_url: str) -> Any:
    engine = make_engine(engine_url(database_url, Path("/")))
    yield engine
    engine.dispose()


def test_migrated_schema_is_that_of_the_tables(engine: Engine, tmp_path: Path) -> None:
    migrated = {table: (_columns(engine, table), _indexes(engine, table)) for table in metadata.tables}
    with engine.connect() as connection, connection.begin():
        metadata.drop_all(connection)
    with engine.connect() as connection, connection.begin():
        metadata.create_all(connection)
    described = {table: (_columns(engine, table), _indexes(engine, table)) for table in metadata.tables}
    assert migrated == described


def test_upgrading_again_changes_nothing(engine: Engine) -> None:
    with engine.connect() as connection, connection.begin():
        assert migrations.upgrade(connection) == []


def test_newer_database_is_refused(engine: Engine) -> None:
    newest = max(migrations.known_migrations())
    with engine.connect() as connection, connection.begin():
        connection.execute(text("UPDATE schema_version SET version = :v"), {"v": newest + 1})
    with (
        engine.connect() as connection,
        connection.begin(),
        pytest.raises(migrations.SchemaTooNew, match=f"schema {newest + 1}"),
    ):
        migrations.upgrade(connection)


def test_events_behind_gaps_are_known_from_the_gaps_that_are_open(engine: Engine) -> None:
    """Not the join with which the room began here, nor one of the same missing event, nor what was fetched from before."""
    places = {"$history": -5, "$join": 10, "$behind": 20, "$beside": 30}
    missing = {"$history": "$c", "$join": "$a", "$behind": "$b", "$beside": "$a"}
    about = {"room_id": "!r", "type": "t", "sender": "@a:b", "depth": 1, "origin_server_ts": 1, "json": b"{}"}
    with engine.connect() as connection, connection.begin():
        connection.execute(text("ALTER TABLE events DROP COLUMN follows_gap"))
        columns = [*about, "nid", "timeline_order", "event_id", "soft_failed", "push_outcome"]
        values = ", ".join(f":{name}" for name in columns)
        for nid, (event_id, place) in enumerate(places.items()):
            of_event = {
                "nid": nid,
                "timeline_order": place,
                "event_id": event_id,
                "soft_failed": False,
                "push_outcome": 0,
            }
            connection.execute(text(f"INSERT INTO events ({', '.join(columns)}) VALUES ({values})"), about | of_event)
            gap = {"missing_id": missing[event_id], "event_id": event_id}
            connection.execute(text("INSERT INTO event_gaps VALUES ('!r', :missing_id, :event_id)"), gap)
        m0038_timeline_gaps.upgrade(connection)
        marked = connection.execute(text("SELECT event_id FROM events WHERE follows_gap")).scalars().all()
    assert marked == ["$behind"]
