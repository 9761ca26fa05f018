"""The newest events of rooms."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection, func, literal_column, select

from homeserver.matrix.ids import RoomId
from homeserver.runtime.statement import OneOf, Statement
from homeserver.store.tables.rooms import events as e
from homeserver.store.tables.rooms import rooms

# Spec: MSC4186, "bump stamps"
BUMPING = frozenset(
    {
        "m.room.create",
        "m.room.message",
        "m.room.encrypted",
        "m.sticker",
        "m.call.invite",
        "m.poll.start",
        "m.beacon_info",
        "org.matrix.msc3381.poll.start",
        "org.matrix.msc3672.beacon_info",
    }
)

_LIVE = (e.c.room_id == rooms.c.room_id, e.c.rejected.is_(None), e.c.soft_failed.is_(False), e.c.timeline_order > 0)
_LAST = select(func.max(e.c.timeline_order)).where(*_LIVE).correlate(rooms).scalar_subquery()
_BUMP = (
    select(e.c.timeline_order)
    .where(*_LIVE, e.c.type.in_([literal_column(f"'{type_}'") for type_ in sorted(BUMPING)]))
    .order_by(e.c.timeline_order.desc())
    .limit(1)
    .correlate(rooms)
    .scalar_subquery()
)
_OF_ROOMS = Statement(select(rooms.c.room_id, _LAST, _BUMP).where(OneOf(rooms.c.room_id, "ids")), texts=["ids"])


def load_activity(conn: Connection, room_ids: Collection[RoomId]) -> dict[RoomId, tuple[int, int]]:
    """Room -> places of its newest live event, and of the newest that makes it rise in lists; 0 for none."""
    return {
        RoomId(room_id): (newest or 0, rising or 0)
        for room_id, newest, rising in _OF_ROOMS.all(conn, {"ids": list(room_ids)})
    }
