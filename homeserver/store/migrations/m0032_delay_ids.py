"""Delayed events are found by their id alone: whoever knows it may act on them."""

from __future__ import annotations

from sqlalchemy import Connection


def upgrade(connection: Connection) -> None:
    connection.exec_driver_sql("CREATE UNIQUE INDEX delayed_events_id ON delayed_events (delay_id)")
