"""What other servers sent: transactions that were answered, and events and receipts that were accepted but not dealt with yet."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, LargeBinary, Table, Text

from homeserver.store.tables.base import metadata

received_transactions = Table(
    "received_transactions",
    metadata,
    Column("origin", Text, primary_key=True),
    Column("txn_id", Text, primary_key=True),
    Column("answer", LargeBinary, nullable=False),  # JSON
    Column("received_ts_ms", BigInteger, nullable=False),
)

# Events for which another server has our word, until they are in the room (or refused).
staged_pdus = Table(
    "staged_pdus",
    metadata,
    Column("room_id", Text, primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),  # in the order of arrival
    Column("origin", Text, nullable=False),
    Column("json", LargeBinary, nullable=False),  # as it was sent
    Column("received_ts_ms", BigInteger, nullable=False),
)
Index("received_transactions_ts", received_transactions.c.received_ts_ms)

# Receipts (m.read) of users elsewhere, until the event that they name is in the room: of each user and thread the newest.
early_receipts = Table(
    "early_receipts",
    metadata,
    Column("room_id", Text, primary_key=True),
    Column("user_id", Text, primary_key=True),
    Column("thread_id", Text, primary_key=True),  # as in `receipts`
    Column("event_id", Text, nullable=False),
    Column("ts_ms", BigInteger, nullable=False),
    Column("received_ts_ms", BigInteger, nullable=False),
)
