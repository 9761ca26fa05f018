"""Delayed events."""

from __future__ import annotations

from sqlalchemy import Connection

_STATEMENTS = (
    """
CREATE TABLE delayed_events (
    user_id TEXT NOT NULL,
    delay_id TEXT NOT NULL,
    device_id TEXT,
    room_id TEXT NOT NULL,
    type TEXT NOT NULL,
    state_key TEXT,
    content {blob} NOT NULL,
    delay_ms BIGINT NOT NULL,
    running_since_ms BIGINT NOT NULL,
    due_ts_ms BIGINT NOT NULL,
    PRIMARY KEY (user_id, delay_id)
)
""",
    """CREATE INDEX delayed_events_due ON delayed_events (due_ts_ms)""",
)


def upgrade(connection: Connection) -> None:
    blob = "BYTEA" if connection.dialect.name == "postgresql" else "BLOB"
    for statement in _STATEMENTS:
        connection.exec_driver_sql(statement.replace("{blob}", blob))
