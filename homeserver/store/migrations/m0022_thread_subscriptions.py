"""Subscriptions to threads (MSC4306)."""

from __future__ import annotations

from sqlalchemy import Connection

_STATEMENTS = (
    """
CREATE TABLE thread_subscriptions (
    user_id TEXT NOT NULL,
    room_id TEXT NOT NULL,
    thread_root TEXT NOT NULL,
    subscribed BOOLEAN NOT NULL,
    automatic BOOLEAN NOT NULL,
    position BIGINT NOT NULL,
    PRIMARY KEY (user_id, room_id, thread_root)
)
""",
    """CREATE INDEX thread_subscriptions_position ON thread_subscriptions (user_id, position)""",
)


def upgrade(connection: Connection) -> None:
    for statement in _STATEMENTS:
        connection.exec_driver_sql(statement)
