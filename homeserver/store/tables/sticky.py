"""Which events are sticky."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Table, Text

from homeserver.store.tables.base import metadata

sticky_events = Table(
    "sticky_events",
    metadata,
    Column("room_id", Text, primary_key=True),
    Column("nid", BigInteger, primary_key=True, autoincrement=False),
    Column("event_id", Text, nullable=False),
    # By the origin's clock: whoever reads it caps it.
    Column("expires_ts_ms", BigInteger, nullable=False),
)
Index("sticky_events_expiry", sticky_events.c.expires_ts_ms)
