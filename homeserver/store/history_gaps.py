"""Places of a room's timeline before which history is missing."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from attrs import frozen
from sqlalchemy import Connection, and_, bindparam, func, select

from homeserver.matrix.ids import EventId, RoomId
from homeserver.runtime.statement import OneOf, Statement
from homeserver.store.tables.federated_rooms import event_gaps as g
from homeserver.store.tables.rooms import events as e

LOWEST = -(2**62)
HIGHEST = 2**62


@frozen
class HistoryGap:
    """An event of the timeline, its order, and those of its prev_events that are not stored."""

    room_id: RoomId
    event_id: EventId
    order: int
    missing: Sequence[EventId]


_GAPS = Statement(
    select(e.c.timeline_order, g.c.event_id, g.c.missing_id)
    .select_from(g.join(e, and_(e.c.event_id == g.c.event_id, e.c.room_id == g.c.room_id)))
    .where(
        g.c.room_id == bindparam("room_id"),
        e.c.timeline_order > bindparam("after"),
        e.c.timeline_order <= bindparam("upto"),
    )
    .order_by(e.c.timeline_order.desc(), g.c.missing_id)
)
_HAS_GAPS = Statement(select(g.c.event_id).where(g.c.room_id == bindparam("room_id")).limit(1))
_FOLLOWING = Statement(
    select(func.min(e.c.timeline_order)).where(
        e.c.room_id == bindparam("room_id"), e.c.timeline_order > bindparam("order")
    )
)


def load_gap(conn: Connection, room_id: RoomId, after: int, upto: int) -> HistoryGap | None:
    """The newest gap behind `after` and not beyond the event that follows `upto`."""
    if _HAS_GAPS.first(conn, {"room_id": room_id}) is None:  # nearly all rooms
        return None
    following = _FOLLOWING.first(conn, {"room_id": room_id, "order": upto})
    last = upto if following is None or following[0] is None else following[0]
    rows = _GAPS.all(conn, {"room_id": room_id, "after": after, "upto": last})
    if not rows:
        return None
    order, event_id, _ = rows[0]
    return HistoryGap(room_id, event_id, order, [missing for _, named, missing in rows if named == event_id])


_PLACED = Statement(
    select(e.c.event_id).where(
        e.c.room_id == bindparam("room_id"), OneOf(e.c.event_id, "ids"), e.c.timeline_order.is_not(None)
    ),
    texts=["ids"],
)


def load_in_timeline(conn: Connection, room_id: RoomId, event_ids: Collection[EventId]) -> set[EventId]:
    """Those of the events that have a place in the room's timeline."""
    return {row[0] for row in _PLACED.all(conn, {"room_id": room_id, "ids": list(event_ids)})}


_MISSING = select(g.c.missing_id).where(g.c.room_id == bindparam("room_id"), g.c.event_id == bindparam("event_id"))


def load_missing_before(conn: Connection, room_id: RoomId, event_id: EventId) -> set[EventId]:
    """Those of the event's prev_events that are not stored."""
    return {row[0] for row in conn.execute(_MISSING, {"room_id": room_id, "event_id": event_id})}
