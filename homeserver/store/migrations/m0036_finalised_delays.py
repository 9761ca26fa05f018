"""Delayed events that were sent, cancelled, or could not be sent: for a while, their user can look up what became of them."""

from __future__ import annotations

from sqlalchemy import Connection

_STATEMENTS = (
    """
CREATE TABLE finalised_delayed_events (
    delay_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    room_id TEXT NOT NULL,
    type TEXT NOT NULL,
    state_key TEXT,
    content {blob} NOT NULL,
    delay_ms BIGINT NOT NULL,
    running_since_ms BIGINT NOT NULL,
    finalised_ts_ms BIGINT NOT NULL,
    event_id TEXT,
    error TEXT,
    PRIMARY KEY (delay_id)
)
""",
    "CREATE INDEX finalised_delayed_events_user ON finalised_delayed_events (user_id, finalised_ts_ms)",
    "CREATE INDEX finalised_delayed_events_ts ON finalised_delayed_events (finalised_ts_ms)",
)


def upgrade(connection: Connection) -> None:
    blob = "BYTEA" if connection.dialect.name == "postgresql" else "BLOB"
    for statement in _STATEMENTS:
        connection.exec_driver_sql(statement.replace("{blob}", blob))
