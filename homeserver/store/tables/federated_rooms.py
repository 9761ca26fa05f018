"""What is known of rooms in part: gaps in their history, redactions of unknown events, invitations from afar."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, LargeBinary, Table, Text

from homeserver.store.tables.base import metadata

# Prev events that are not stored, and the events that name them.
event_gaps = Table(
    "event_gaps",
    metadata,
    Column("room_id", Text, primary_key=True),
    Column("missing_id", Text, primary_key=True),
    Column("event_id", Text, primary_key=True),
)

# Redactions that came before what they redact.
waiting_redactions = Table(
    "waiting_redactions",
    metadata,
    Column("room_id", Text, primary_key=True),
    Column("target_id", Text, primary_key=True),
    Column("redaction_id", Text, primary_key=True),
)

# The newest membership of local users in rooms that this server is not in: invites, knocks, and how they ended.
outside_rooms = Table(
    "outside_rooms",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("room_id", Text, primary_key=True),
    Column("version", Text, nullable=False),
    Column("event_id", Text, nullable=False),
    Column("event", LargeBinary, nullable=False),  # the member event, as canonical JSON: it is not in `events`
    Column("state", LargeBinary, nullable=False),  # JSON: what this server was told of the room, stripped state events
    Column("servers", Text, nullable=False),  # JSON: servers that are likely in the room
)

# Those of them that ended here and of which no other server knows yet.
untold_leaves = Table(
    "untold_leaves",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("room_id", Text, primary_key=True),
    Column("event_id", Text, nullable=False),
    Column("server", Text, nullable=False),
    Column("since_ts_ms", BigInteger, nullable=False),
)

# Rooms that were joined with the members left out, until their full state has come.
partial_rooms = Table(
    "partial_rooms",
    metadata,
    Column("room_id", Text, primary_key=True),
    Column("event_id", Text, nullable=False),  # the join
    Column("servers", Text, nullable=False),  # JSON: the servers in the room, as the resident server told
    Column("position", BigInteger, nullable=False),  # where the join stands in the log
)
