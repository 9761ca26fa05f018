"""Push rules."""

from __future__ import annotations

from sqlalchemy import Connection

_PUSH_RULES = """
CREATE TABLE push_rules (
    user_id TEXT NOT NULL,
    rules {blob} NOT NULL,
    PRIMARY KEY (user_id)
)
"""


def upgrade(connection: Connection) -> None:
    blob = "BYTEA" if connection.dialect.name == "postgresql" else "BLOB"
    connection.exec_driver_sql(_PUSH_RULES.replace("{blob}", blob))
