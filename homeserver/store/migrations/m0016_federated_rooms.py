"""Rooms that are shared with other servers."""

from __future__ import annotations

from sqlalchemy import Connection

_STATEMENTS = (
    "ALTER TABLE events ADD COLUMN sight TEXT",
    """
CREATE TABLE event_gaps (
    room_id TEXT NOT NULL,
    missing_id TEXT NOT NULL,
    event_id TEXT NOT NULL,
    PRIMARY KEY (room_id, missing_id, event_id)
)
""",
    """
CREATE TABLE waiting_redactions (
    room_id TEXT NOT NULL,
    target_id TEXT NOT NULL,
    redaction_id TEXT NOT NULL,
    PRIMARY KEY (room_id, target_id, redaction_id)
)
""",
    """
CREATE TABLE outside_rooms (
    user_id TEXT NOT NULL,
    room_id TEXT NOT NULL,
    version TEXT NOT NULL,
    event_id TEXT NOT NULL,
    event {blob} NOT NULL,
    state {blob} NOT NULL,
    servers TEXT NOT NULL,
    PRIMARY KEY (user_id, room_id)
)
""",
    """
CREATE TABLE partial_rooms (
    room_id TEXT NOT NULL,
    event_id TEXT NOT NULL,
    servers TEXT NOT NULL,
    position BIGINT NOT NULL,
    PRIMARY KEY (room_id)
)
""",
)


def upgrade(connection: Connection) -> None:
    blob = "BYTEA" if connection.dialect.name == "postgresql" else "BLOB"
    for statement in _STATEMENTS:
        connection.exec_driver_sql(statement.replace("{blob}", blob))
