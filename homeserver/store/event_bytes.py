"""Events as the bytes that servers exchange, read without being parsed: for answers that hold a room's whole state."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection, bindparam, select

from homeserver.matrix.ids import EventId, RoomId
from homeserver.matrix.pdu import load_pdu, redact_pdu
from homeserver.matrix.versions import RoomVersion
from homeserver.store.events import chunked
from homeserver.store.tables.rooms import events as e

_BYTES = select(e.c.event_id, e.c.json, e.c.redacted_by).where(
    e.c.event_id.in_(bindparam("ids", expanding=True)),
    e.c.room_id == bindparam("room_id"),
    e.c.rejected.is_(None),
)


def load_event_bytes(
    conn: Connection, room_id: RoomId, version: RoomVersion, event_ids: Collection[EventId]
) -> list[bytes]:
    """Those of the events that are stored and accepted, in no order; redacted ones in their redacted form."""
    return [
        json if redacted_by is None else redact_pdu(load_pdu(json, version, event_id)).json_bytes
        for chunk in chunked(event_ids)
        for event_id, json, redacted_by in conn.execute(_BYTES, {"ids": chunk, "room_id": room_id})
    ]
