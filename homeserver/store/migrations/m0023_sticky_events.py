"""Sticky events (MSC4354), delayed ones too."""

from __future__ import annotations

from sqlalchemy import Connection

_STATEMENTS = (
    """
CREATE TABLE sticky_events (
    room_id TEXT NOT NULL,
    nid BIGINT NOT NULL,
    event_id TEXT NOT NULL,
    expires_ts_ms BIGINT NOT NULL,
    PRIMARY KEY (room_id, nid)
)
""",
    """CREATE INDEX sticky_events_expiry ON sticky_events (expires_ts_ms)""",
    """ALTER TABLE delayed_events ADD COLUMN sticky_ms BIGINT""",
)


def upgrade(connection: Connection) -> None:
    for statement in _STATEMENTS:
        connection.exec_driver_sql(statement)
