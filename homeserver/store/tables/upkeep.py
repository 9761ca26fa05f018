"""Rooms that nobody here is in: since when, and those whose rows are being deleted; history that is let go."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Table, Text

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

# Events of fetched history that were taken out of the timeline. is_swept: somebody looked already whether they can be deleted;
# those that are still here then have to stay, for others rest on them.
trimmed_events = Table(
    "trimmed_events",
    metadata,
    Column("room_id", Text, primary_key=True),
    Column("nid", BigInteger, primary_key=True, autoincrement=False),
    Column("is_swept", Boolean, nullable=False),
)
