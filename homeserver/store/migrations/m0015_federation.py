"""Servers that fail to answer, and server keys."""

from __future__ import annotations

from sqlalchemy import Connection

_STATEMENTS = (
    """
CREATE TABLE destinations (
    server TEXT NOT NULL,
    failing_since_ms BIGINT NOT NULL,
    failures INTEGER NOT NULL,
    interval_ms BIGINT NOT NULL,
    retry_ts_ms BIGINT NOT NULL,
    PRIMARY KEY (server)
)
""",
    """
CREATE TABLE server_keys (
    server TEXT NOT NULL,
    key_id TEXT NOT NULL,
    public_key {blob} NOT NULL,
    valid_until_ts_ms BIGINT NOT NULL,
    is_old BOOLEAN NOT NULL,
    PRIMARY KEY (server, key_id)
)
""",
    """
CREATE TABLE server_key_documents (
    server TEXT NOT NULL,
    document {blob} NOT NULL,
    valid_until_ts_ms BIGINT NOT NULL,
    fetched_ts_ms BIGINT NOT NULL,
    PRIMARY KEY (server)
)
""",
    """
CREATE TABLE own_old_keys (
    key_id TEXT NOT NULL,
    public_key {blob} NOT NULL,
    expired_ts_ms BIGINT NOT NULL,
    PRIMARY KEY (key_id)
)
""",
)


def upgrade(connection: Connection) -> None:
    blob = "BYTEA" if connection.dialect.name == "postgresql" else "BLOB"
    for statement in _STATEMENTS:
        connection.exec_driver_sql(statement.replace("{blob}", blob))
