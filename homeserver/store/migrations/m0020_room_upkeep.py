"""Rooms that nobody here is in."""

from __future__ import annotations

from sqlalchemy import Connection

_STATEMENTS = (
    """
CREATE TABLE empty_rooms (
    room_id TEXT NOT NULL,
    since_ms BIGINT NOT NULL,
    PRIMARY KEY (room_id)
)
""",
    """
CREATE TABLE room_purges (
    room_id TEXT NOT NULL,
    began_ts_ms BIGINT NOT NULL,
    PRIMARY KEY (room_id)
)
""",
)


def upgrade(connection: Connection) -> None:
    for statement in _STATEMENTS:
        connection.exec_driver_sql(statement)
