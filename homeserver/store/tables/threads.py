"""Whom which threads concern."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Index, Table, Text

from homeserver.store.tables.base import metadata

thread_subscriptions = Table(
    "thread_subscriptions",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("room_id", Text, primary_key=True),
    Column("thread_root", Text, primary_key=True),
    # False: unsubscribed, which an older event can't undo.
    Column("subscribed", Boolean, nullable=False),
    Column("automatic", Boolean, nullable=False),
    Column("position", BigInteger, nullable=False),  # in the log, of the change
)
Index("thread_subscriptions_position", thread_subscriptions.c.user_id, thread_subscriptions.c.position)
