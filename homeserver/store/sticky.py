"""Sticky events, as long as they are."""

from __future__ import annotations

from collections.abc import Collection

from attrs import frozen
from sqlalchemy import Connection, and_, delete, select

from homeserver.matrix.ids import RoomId, UserId
from homeserver.matrix.versions import RoomVersion, room_version
from homeserver.runtime.statement import Statement
from homeserver.store.events import EVENT_COLUMNS, StoredEvent, load_events, stored_events
from homeserver.store.tables.rooms import events as e
from homeserver.store.tables.rooms import rooms
from homeserver.store.tables.sticky import sticky_events as t
from homeserver.store.upsert import upsert

MAX_SOFT_FAILED = 1_000  # of a room, to be looked at again at once
_SAVE = Statement(upsert(t))


@frozen
class StickyRow:
    event: StoredEvent
    until_ms: int


def save_sticky(conn: Connection, events: Collection[StoredEvent]) -> None:
    """Those of the events that are sticky; they may be kept already."""
    rows = [
        {
            "room_id": event.pdu.room_id,
            "nid": event.nid,
            "event_id": event.event_id,
            "expires_ts_ms": event.sticky_until_ms,
        }
        for event in events
        if event.sticky_until_ms is not None
    ]
    _SAVE.run_many(conn, rows)


def load_sticky(conn: Connection, now_ms: int, limit: int) -> list[StickyRow]:
    """Those that are sticky now, soft-failed ones too, the newest of them, in the order in which they came."""
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
    ordered = sorted(events, key=lambda event: event.timeline_order or event.nid)
    return [StickyRow(event, expiries[event.event_id]) for event in ordered]


def load_soft_failed_sticky(
    conn: Connection, room_id: RoomId, version: RoomVersion, now_ms: int, senders: Collection[UserId] | None
) -> list[StoredEvent]:
    """The soft-failed events of a room that are sticky now, in the order in which they came; if there are too many, the newest.
    senders: None for all."""
    statement = (
        select(*EVENT_COLUMNS, t.c.expires_ts_ms)
        .select_from(t.join(e, and_(e.c.room_id == t.c.room_id, e.c.nid == t.c.nid)))
        .where(t.c.room_id == room_id, t.c.expires_ts_ms > now_ms, e.c.soft_failed.is_(True), e.c.rejected.is_(None))
    )
    if senders is not None:
        statement = statement.where(e.c.sender.in_(senders))
    rows = conn.execute(statement.order_by(t.c.nid.desc()).limit(MAX_SOFT_FAILED)).all()
    events = stored_events(rows, version)
    for event, row in zip(events, rows, strict=True):
        event.sticky_until_ms = row.expires_ts_ms
    return events[::-1]


def delete_unsticky(conn: Connection, now_ms: int) -> None:
    """Forget of events that they were sticky once."""
    conn.execute(delete(t).where(t.c.expires_ts_ms <= now_ms))
