"""What people reported to the admins."""

from __future__ import annotations

from attrs import frozen
from sqlalchemy import Connection, insert, select

from homeserver.matrix.ids import EventId, RoomId, UserId
from homeserver.store.tables.rooms import reports as t


@frozen
class Report:
    """Of a room, of an event (with its room), or of a user: what is not concerned is None."""

    reporter: UserId
    reason: str | None
    received_ts_ms: int
    room_id: RoomId | None = None
    event_id: EventId | None = None
    user_id: UserId | None = None


def save_report(conn: Connection, position: int, report: Report) -> None:
    conn.execute(
        insert(t).values(
            report_id=position,
            reporter=report.reporter,
            room_id=report.room_id,
            event_id=report.event_id,
            user_id=report.user_id,
            reason=report.reason,
            received_ts_ms=report.received_ts_ms,
        )
    )


def load_reports(conn: Connection, after: int, limit: int) -> list[tuple[int, Report]]:
    """(id, report) with id > after, oldest first."""
    columns = (
        t.c.report_id,
        t.c.reporter,
        t.c.reason,
        t.c.received_ts_ms,
        t.c.room_id,
        t.c.event_id,
        t.c.user_id,
    )
    rows = conn.execute(select(*columns).where(t.c.report_id > after).order_by(t.c.report_id).limit(limit))
    return [(row[0], Report(*row[1:])) for row in rows]
