"""Rooms: heads, events, state, memberships, and what hangs on a room."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, LargeBinary, Table, Text, UniqueConstraint

from homeserver.store.tables.base import metadata, partial

rooms = Table(
    "rooms",
    metadata,
    Column("room_id", Text, primary_key=True),
    Column("version", Text, nullable=False),
    Column("creator", Text, nullable=False),
    Column("created_ts_ms", BigInteger, nullable=False),
    # The head: compare-and-swapped by head_version on every write to the room.
    Column("head_version", BigInteger, nullable=False),
    Column("extremities", Text, nullable=False),  # JSON list of event ids
    Column("depth", BigInteger, nullable=False),
    Column("snapshot_id", BigInteger, nullable=False),
    Column("is_public", Boolean, nullable=False, default=False),
    Column("joined_members", Integer, nullable=False, default=0),
)
Index(
    "rooms_public",
    rooms.c.is_public,
    rooms.c.joined_members,
    info=partial(rooms.c.is_public),
)

events = Table(
    "events",
    metadata,
    Column("room_id", Text, primary_key=True),
    # The log position at which the event was stored (outliers: see store/outliers.py): unique, and how other tables name
    # it in eight bytes.
    Column("nid", BigInteger, primary_key=True, autoincrement=False),
    # The place in the room's timeline: the log position for live events, negative and falling for
    # backfilled history, NULL for what is in no timeline (outliers, rejected and soft-failed events).
    Column("timeline_order", BigInteger, nullable=True),
    Column("event_id", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("state_key", Text, nullable=True),
    Column("sender", Text, nullable=False),
    Column("depth", BigInteger, nullable=False),
    Column("origin_server_ts", BigInteger, nullable=False),
    Column("json", LargeBinary, nullable=False),  # the PDU as canonical JSON, without unsigned
    # The snapshot of the state before the event; NULL for outliers.
    Column("snapshot_before", BigInteger, nullable=True),
    Column("rejected", Text, nullable=True),  # why the event failed the auth rules
    Column("soft_failed", Boolean, nullable=False, default=False),
    Column("redacted_by", Text, nullable=True),
    # The event that this state event replaced when it was stored (unsigned.replaces_state).
    Column("replaces", Text, nullable=True),
    # Device and transaction id of a local sender, for unsigned.transaction_id.
    Column("txn_device_id", Text, nullable=True),
    Column("txn_id", Text, nullable=True),
    # What the default push rules say: bits of store/unread.py. For counting in SQL.
    Column("push_outcome", Integer, nullable=False, default=0),
    Column("thread_root", Text, nullable=True),
    # Where the state before the event is not that of the room at the event's place in the timeline: what of it decides
    # who may see the event (store/sights.py).
    Column("sight", Text, nullable=True),
    # When it came, events before it were missing: what clients are told of the timeline begins anew with it.
    Column("follows_gap", Boolean, nullable=False, default=False),
    UniqueConstraint("event_id", "room_id", name="events_event_id"),
)
Index("events_timeline", events.c.room_id, events.c.timeline_order)
Index(
    "events_threads",
    events.c.room_id,
    events.c.push_outcome,
    events.c.timeline_order,
    info=partial(events.c.thread_root.is_not(None)),
)
Index("events_origin_ts", events.c.room_id, events.c.origin_server_ts)

state_snapshots = Table(
    "state_snapshots",
    metadata,
    Column("room_id", Text, primary_key=True),
    Column("snapshot_id", BigInteger, primary_key=True, autoincrement=False),
    Column("height", BigInteger, nullable=False),
    Column("base_id", BigInteger, nullable=True),
    Column("delta", LargeBinary, nullable=False),
)

current_state = Table(
    "current_state",
    metadata,
    Column("room_id", Text, primary_key=True),
    Column("type", Text, primary_key=True),
    Column("state_key", Text, primary_key=True),
    Column("event_id", Text, nullable=False),
)

state_deltas = Table(
    "state_deltas",
    metadata,
    Column("room_id", Text, primary_key=True),
    Column("type", Text, primary_key=True),
    Column("state_key", Text, primary_key=True),
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("event_id", Text, nullable=True),  # NULL: the key was removed by state resolution
    Column("prev_event_id", Text, nullable=True),
)
Index("state_deltas_position", state_deltas.c.room_id, state_deltas.c.position)

memberships = Table(
    "memberships",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("room_id", Text, primary_key=True),
    Column("membership", Text, nullable=False),
    Column("event_id", Text, nullable=False),
    Column("sender", Text, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("forgotten", Boolean, nullable=False, default=False),
    # What a joined user is found by in the user directory; None until the index has come there.
    Column("words", Text, nullable=True),
)
Index("memberships_room", memberships.c.room_id, memberships.c.membership)
Index(
    "memberships_wordless",
    memberships.c.room_id,
    info=partial((memberships.c.membership == "join") & memberships.c.words.is_(None)),
)

event_transactions = Table(
    "event_transactions",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("device_id", Text, primary_key=True),
    # The rest of the request path: room, kind, and the client's transaction id.
    Column("scope", Text, primary_key=True),
    # What the answer named: the event, or of one that is to be sent later (MSC4140) its delay id.
    Column("event_id", Text, nullable=False),
)

receipts = Table(
    "receipts",
    metadata,
    Column("room_id", Text, primary_key=True),
    Column("user_id", Text, primary_key=True),
    Column("receipt_type", Text, primary_key=True),
    Column("thread_id", Text, primary_key=True),  # "" for unthreaded
    Column("event_id", Text, nullable=False),
    # Where the event stands in the timeline, and where the receipt stands in the log.
    Column("event_order", BigInteger, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("ts_ms", BigInteger, nullable=False),
)
Index("receipts_position", receipts.c.room_id, receipts.c.position)
Index("receipts_user", receipts.c.user_id, receipts.c.room_id)

room_aliases = Table(
    "room_aliases",
    metadata,
    Column("alias", Text, primary_key=True),
    Column("room_id", Text, nullable=False),
    Column("creator", Text, nullable=False),
    Column("created_ts_ms", BigInteger, nullable=False),
)
Index("room_aliases_room", room_aliases.c.room_id)

reports = Table(
    "reports",
    metadata,
    Column("report_id", BigInteger, primary_key=True, autoincrement=False),  # the log position
    Column("reporter", Text, nullable=False),
    Column("room_id", Text, nullable=True),
    Column("event_id", Text, nullable=True),
    Column("user_id", Text, nullable=True),
    Column("reason", Text, nullable=True),
    Column("received_ts_ms", BigInteger, nullable=False),
)
