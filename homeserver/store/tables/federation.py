"""Other servers: which of them fail to answer, and their keys."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Integer, LargeBinary, Table, Text

from homeserver.store.tables.base import metadata

# Only servers that fail have a row.
destinations = Table(
    "destinations",
    metadata,
    Column("server", Text, primary_key=True),
    Column("failing_since_ms", BigInteger, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("interval_ms", BigInteger, nullable=False),
    Column("retry_ts_ms", BigInteger, nullable=False),
)

server_keys = Table(
    "server_keys",
    metadata,
    Column("server", Text, primary_key=True),
    Column("key_id", Text, primary_key=True),
    Column("public_key", LargeBinary, nullable=False),
    # The key signs nothing newer than this; for a key in use it moves on with each document.
    Column("valid_until_ts_ms", BigInteger, nullable=False),
    # An old key: it signs events of its time still, but no request.
    Column("is_old", Boolean, nullable=False),
)

# The newest key document of each server, as it signed it; for those who ask us as a notary.
server_key_documents = Table(
    "server_key_documents",
    metadata,
    Column("server", Text, primary_key=True),
    Column("document", LargeBinary, nullable=False),
    Column("valid_until_ts_ms", BigInteger, nullable=False),
    Column("fetched_ts_ms", BigInteger, nullable=False),
)

# Our own keys that are in use no more; their private halves may be gone.
own_old_keys = Table(
    "own_old_keys",
    metadata,
    Column("key_id", Text, primary_key=True),
    Column("public_key", LargeBinary, nullable=False),
    Column("expired_ts_ms", BigInteger, nullable=False),
)
