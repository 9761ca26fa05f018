"""The log: every durable change is a row, positions are commit-ordered and gap-free.

`log_head` has one row. Whoever appends raises its position inside the writing transaction and so holds it until the
commit: nobody can see position p+1 before p is visible.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, Table, Text

from homeserver.store.tables.base import metadata

log_head = Table(
    "log_head",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("position", BigInteger, nullable=False),
)

log = Table(
    "log",
    metadata,
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", Text, nullable=False),
    # What the row is about and what a sharded database would distribute by: a room id or a user id.
    Column("key", Text, nullable=False),
    Column("data", LargeBinary, nullable=False),  # JSON
)

cursors = Table(
    "cursors",
    metadata,
    Column("name", Text, primary_key=True),
    Column("position", BigInteger, nullable=False),
)

leases = Table(
    "leases",
    metadata,
    Column("name", Text, primary_key=True),
    Column("owner", Text, nullable=False),
    # Raised each time the lease changes hands; a holder whose fence is old has lost it.
    Column("fence", BigInteger, nullable=False),
    Column("expires_ts_ms", BigInteger, nullable=False),
)
Index("leases_expiry", leases.c.expires_ts_ms)
