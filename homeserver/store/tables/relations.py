"""Which event relates to which."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Table, Text

from homeserver.store.tables.base import metadata

event_relations = Table(
    "event_relations",
    metadata,
    Column("room_id", Text, primary_key=True),
    Column("event_id", Text, primary_key=True),
    Column("target_id", Text, nullable=False),
    Column("rel_type", Text, nullable=False),
    Column("nid", BigInteger, nullable=False),
)
Index(
    "event_relations_target",
    # The target alone finds nearly all: so many events of many rooms are asked for at once.
    event_relations.c.target_id,
    event_relations.c.room_id,
    event_relations.c.rel_type,
    event_relations.c.nid,
)
