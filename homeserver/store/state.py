"""State of the past, by timeline position."""

from __future__ import annotations

from sqlalchemy import Connection, and_, bindparam, func, select

from homeserver.matrix.ids import EventId, RoomId
from homeserver.matrix.state_map import StateKey
from homeserver.store.tables.rooms import state_deltas as d

_NEWEST = (
    select(d.c.type, d.c.state_key, func.max(d.c.position).label("position"))
    .where(d.c.room_id == bindparam("room_id"), d.c.position <= bindparam("position"))
    .group_by(d.c.type, d.c.state_key)
    .subquery()
)
_STATE_AT = (
    select(d.c.type, d.c.state_key, d.c.event_id)
    .join(
        _NEWEST,
        and_(d.c.type == _NEWEST.c.type, d.c.state_key == _NEWEST.c.state_key, d.c.position == _NEWEST.c.position),
    )
    .where(d.c.room_id == bindparam("room_id"), d.c.event_id.is_not(None))
)


def load_state_at(conn: Connection, room_id: RoomId, position: int) -> dict[StateKey, EventId]:
    """The room's current state as it was once the log had reached `position`."""
    rows = conn.execute(_STATE_AT, {"room_id": room_id, "position": position})
    return {(row[0], row[1]): row[2] for row in rows}
