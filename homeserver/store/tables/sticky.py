"""Which events are sticky, soft-failed ones too: those wait for a state of the room that allows them."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Table, Text

from homeserver.store.tables.base import metadata

sticky_events = Table(
    "sticky_events",
    metadata,
    Column("room_id", Text, primary_key=True),
    Column("nid", BigInteger, primary_key=True, autoincrement=False),
    Column("event_id", Text, nullable=False),
    Column("expires_ts_ms", BigInteger, nullable=False),
)
Index("sticky_events_expiry", sticky_events.c.expires_ts_ms)
