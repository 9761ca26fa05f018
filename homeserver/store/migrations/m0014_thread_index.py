"""The events of threads, for unread counts of clients that send threaded receipts only."""

from __future__ import annotations

from sqlalchemy import Connection


def upgrade(connection: Connection) -> None:
    connection.exec_driver_sql(
        "CREATE INDEX events_threads ON events (room_id, push_outcome, timeline_order) WHERE thread_root IS NOT NULL"
    )
