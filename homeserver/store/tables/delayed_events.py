"""Events that wait for their time (MSC4140)."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, LargeBinary, Table, Text

from homeserver.store.tables.base import metadata

delayed_events = Table(
    "delayed_events",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("delay_id", Text, primary_key=True),
    Column("device_id", Text, nullable=True),
    Column("room_id", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("state_key", Text, nullable=True),
    Column("content", LargeBinary, nullable=False),  # JSON
    Column("delay_ms", BigInteger, nullable=False),
    Column("running_since_ms", BigInteger, nullable=False),
    Column("due_ts_ms", BigInteger, nullable=False),
    Column("sticky_ms", BigInteger, nullable=True),
)
Index("delayed_events_due", delayed_events.c.due_ts_ms)
Index("delayed_events_id", delayed_events.c.delay_id, unique=True)

# What became of them: `event_id` of those that were sent, `error` (JSON) of those that could not be.
finalised_delayed_events = Table(
    "finalised_delayed_events",
    metadata,
    Column("delay_id", Text, primary_key=True),
    Column("user_id", Text, nullable=False),
    Column("room_id", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("state_key", Text, nullable=True),
    Column("content", LargeBinary, nullable=False),  # JSON
    Column("delay_ms", BigInteger, nullable=False),
    Column("running_since_ms", BigInteger, nullable=False),
    Column("finalised_ts_ms", BigInteger, nullable=False),
    Column("event_id", Text, nullable=True),
    Column("error", Text, nullable=True),
)
Index("finalised_delayed_events_user", finalised_delayed_events.c.user_id, finalised_delayed_events.c.finalised_ts_ms)
Index("finalised_delayed_events_ts", finalised_delayed_events.c.finalised_ts_ms)
