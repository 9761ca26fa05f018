"""Rooms that nobody here is in: since when, and those whose rows are being deleted."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Table, Text

from homeserver.store.tables.base import metadata

empty_rooms = Table(
    "empty_rooms",
    metadata,
    Column("room_id", Text, primary_key=True),
    Column("since_ms", BigInteger, nullable=False),  # when it was first noticed
)

# A row stands here from the moment at which the room is unknown until the last of its rows is gone.
room_purges = Table(
    "room_purges",
    metadata,
    Column("room_id", Text, primary_key=True),
    Column("began_ts_ms", BigInteger, nullable=False),
)
