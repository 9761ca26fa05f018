"""One-time keys that were handed out stay for a while, so that a repeated upload does not bring them back."""

from __future__ import annotations

from sqlalchemy import Connection

_STATEMENTS = (
    """ALTER TABLE one_time_keys ADD COLUMN claimed BIGINT NOT NULL DEFAULT 0""",
    """DROP INDEX one_time_keys_order""",
    """
CREATE INDEX one_time_keys_order ON one_time_keys (user_id, device_id, claimed, algorithm, position, place)
""",
)


def upgrade(connection: Connection) -> None:
    for statement in _STATEMENTS:
        connection.exec_driver_sql(statement)
