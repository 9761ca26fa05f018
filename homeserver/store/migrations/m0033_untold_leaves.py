"""Refused invites, and knocks taken back, of which the other server is still to be told."""

from __future__ import annotations

from sqlalchemy import Connection

_STATEMENTS = (
    """
CREATE TABLE untold_leaves (
    user_id TEXT NOT NULL,
    room_id TEXT NOT NULL,
    event_id TEXT NOT NULL,
    server TEXT NOT NULL,
    since_ts_ms BIGINT NOT NULL,
    PRIMARY KEY (user_id, room_id)
)
""",
)


def upgrade(connection: Connection) -> None:
    for statement in _STATEMENTS:
        connection.exec_driver_sql(statement)
