"""Transactions of other servers, and events of theirs that wait."""

from __future__ import annotations

from sqlalchemy import Connection

_STATEMENTS = (
    """
CREATE TABLE received_transactions (
    origin TEXT NOT NULL,
    txn_id TEXT NOT NULL,
    answer {blob} NOT NULL,
    received_ts_ms BIGINT NOT NULL,
    PRIMARY KEY (origin, txn_id)
)
""",
    "CREATE INDEX received_transactions_ts ON received_transactions (received_ts_ms)",
    """
CREATE TABLE staged_pdus (
    room_id TEXT NOT NULL,
    number BIGINT NOT NULL,
    origin TEXT NOT NULL,
    json {blob} NOT NULL,
    received_ts_ms BIGINT NOT NULL,
    PRIMARY KEY (room_id, number)
)
""",
)


def upgrade(connection: Connection) -> None:
    blob = "BYTEA" if connection.dialect.name == "postgresql" else "BLOB"
    for statement in _STATEMENTS:
        connection.exec_driver_sql(statement.replace("{blob}", blob))
