"""What other servers have not got yet."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Table, Text

from homeserver.store.tables.base import metadata

outbound_backlogs = Table(
    "outbound_backlogs",
    metadata,
    Column("server", Text, primary_key=True),
    # event: `key` is a room, of which the server lacks everything up to `position`; device_list: a user; edu: one
    # message, sticky: one event, its position once more as text; receipt: a room, of which the server lacks the receipts from
    # `position` on.
    Column("kind", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("position", BigInteger, nullable=False),  # of the newest row of the log that is meant
)
Index("outbound_backlogs_order", outbound_backlogs.c.server, outbound_backlogs.c.kind, outbound_backlogs.c.position)
