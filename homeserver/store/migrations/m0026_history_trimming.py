"""Fetched history that was taken out of its room's timeline again."""

from __future__ import annotations

from sqlalchemy import Connection

_STATEMENTS = (
    """
CREATE TABLE trimmed_events (
    room_id TEXT NOT NULL,
    nid BIGINT NOT NULL,
    is_swept BOOLEAN NOT NULL,
    PRIMARY KEY (room_id, nid)
)
""",
)


def upgrade(connection: Connection) -> None:
    for statement in _STATEMENTS:
        connection.exec_driver_sql(statement)
