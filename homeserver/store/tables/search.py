"""What searches find. The index of the grams, `search_words`, is made by its migration: each engine has its own kind."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Table, Text

from homeserver.store.tables.base import metadata

search_entries = Table(
    "search_entries",
    metadata,
    # The event's place in the log, by which search_words names it.
    Column("nid", BigInteger, primary_key=True, autoincrement=False),
    Column("room_id", Text, nullable=False),
    Column("event_id", Text, nullable=False),
    Column("type", Text, nullable=False),
)
