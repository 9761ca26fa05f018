"""Sticky events, as long as they are."""

from __future__ import annotations

from collections.abc import Collection

from attrs import frozen
from sqlalchemy import Connection, delete, insert, select

from homeserver.matrix.ids import RoomId
from homeserver.matrix.sticky import sticky_duration_ms
from homeserver.matrix.versions import room_version
from homeserver.store.events import StoredEvent, load_events
from homeserver.store.tables.rooms import rooms
from homeserver.store.tables.sticky import sticky_events as t

_INSERT = insert(t)


@frozen
class StickyRow:
    """expires_ms: by the clock of the event's origin."""

    event: StoredEvent
    expires_ms: int


def save_sticky(conn: Connection, events: Collection[StoredEvent]) -> None:
    rows = [
        {
            "room_id": event.pdu.room_id,
            "nid": event.nid,
            "event_id": event.event_id,
            "expires_ts_ms": event.pdu.origin_server_ts + duration_ms,
        }
        for event in events
        if (duration_ms := sticky_duration_ms(event.pdu)) is not None
    ]
    if rows:
        conn.execute(_INSERT, rows)


def load_sticky(conn: Connection, now_ms: int, limit: int) -> list[StickyRow]:
    """Those that are sticky now, the newest of them, in the order in which they came."""
    statement = select(t.c.event_id, t.c.expires_ts_ms, rooms.c.room_id, rooms.c.version)
    found = conn.execute(
        statement.select_from(t.join(rooms, rooms.c.room_id == t.c.room_id))
        .where(t.c.expires_ts_ms > now_ms)
        .order_by(t.c.nid.desc())
        .limit(limit)
    ).all()
    versions = {RoomId(row.room_id): room_version(row.version) for row in found}
    expiries = {row.event_id: row.expires_ts_ms for row in found}
    events = load_events(conn, list(expiries), versions)
    return [StickyRow(event, expiries[event.event_id]) for event in sorted(events, key=lambda event: event.nid)]


def delete_unsticky(conn: Connection, now_ms: int) -> None:
    """Forget of events that they were sticky once."""
    conn.execute(delete(t).where(t.c.expires_ts_ms <= now_ms))
