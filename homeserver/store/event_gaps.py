"""Gaps in a room's graph (prev events that are not stored), and redactions that wait for what they redact."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from attrs import frozen
from sqlalchemy import Connection, and_, bindparam, delete, func, select, text

from homeserver.matrix.ids import EventId, RoomId
from homeserver.store.events import chunked
from homeserver.store.tables.federated_rooms import event_gaps as g
from homeserver.store.tables.federated_rooms import waiting_redactions as w
from homeserver.store.tables.rooms import events as e
from homeserver.store.upsert import insert_if_absent


@frozen
class Gap:
    """`event_id` names a prev event that is not stored. order: the event's place in the timeline."""

    missing_id: EventId
    event_id: EventId
    order: int
    depth: int


_INSERT_GAP = insert_if_absent(g)
# PERF(0.3 ms for each event received): as text, SQLAlchemy has nothing to compile.
_DELETE_GAP = text(f"DELETE FROM {g.name} WHERE room_id = :room_id AND missing_id = :event_id")
_INSERT_WAITING = insert_if_absent(w)
_GAPS = (
    select(g.c.missing_id, g.c.event_id, e.c.timeline_order, e.c.depth)
    .select_from(g.join(e, and_(e.c.event_id == g.c.event_id, e.c.room_id == g.c.room_id)))
    .where(g.c.room_id == bindparam("room_id"), e.c.timeline_order.is_not(None))
    .order_by(e.c.timeline_order.desc())
)
_IDS: Any = bindparam("ids", expanding=True)
_FIRST_DEPTH = (
    select(func.min(e.c.depth))
    .select_from(g.join(e, and_(e.c.event_id == g.c.event_id, e.c.room_id == g.c.room_id)))
    .where(g.c.room_id == bindparam("room_id"), e.c.timeline_order.is_not(None))
)
_NAMED = select(g.c.missing_id).where(g.c.room_id == bindparam("room_id"), g.c.missing_id.in_(_IDS))
_WAITING = select(w.c.target_id, w.c.redaction_id).where(w.c.room_id == bindparam("room_id"), w.c.target_id.in_(_IDS))


def save_gaps(conn: Connection, room_id: RoomId, event_id: EventId, missing: Collection[EventId]) -> None:
    """The event is stored now: it ends the gaps that name it, and `missing` of its prev events are gaps."""
    conn.execute(_DELETE_GAP, {"room_id": room_id, "event_id": event_id})
    if missing:
        conn.execute(
            _INSERT_GAP, [{"room_id": room_id, "missing_id": prev_id, "event_id": event_id} for prev_id in missing]
        )


def load_gaps(conn: Connection, room_id: RoomId) -> list[Gap]:
    """Where history is missing, newest first."""
    return [Gap(*row) for row in conn.execute(_GAPS, {"room_id": room_id})]


def load_gap_order(conn: Connection, room_id: RoomId, missing: Collection[EventId]) -> int | None:
    """The first place in the timeline at which an event names one of the missing ones."""
    orders = [
        conn.execute(
            select(func.min(e.c.timeline_order))
            .select_from(g.join(e, and_(e.c.event_id == g.c.event_id, e.c.room_id == g.c.room_id)))
            .where(g.c.room_id == room_id, g.c.missing_id.in_(chunk))
        ).scalar()
        for chunk in chunked(missing)
    ]
    return min((order for order in orders if order is not None), default=None)


def load_first_gap_depth(conn: Connection, room_id: RoomId) -> int:
    """The depth of the first event before which history is missing; 0 if none is."""
    depth: int | None = conn.execute(_FIRST_DEPTH, {"room_id": room_id}).scalar()
    return depth or 0


def load_named_by_gaps(conn: Connection, room_id: RoomId, event_ids: Collection[EventId]) -> set[EventId]:
    """Those of the events that stored events name as their prev events, though they are not stored."""
    return {row[0] for chunk in chunked(event_ids) for row in conn.execute(_NAMED, {"room_id": room_id, "ids": chunk})}


def drop_gaps(conn: Connection, room_id: RoomId, missing: Sequence[EventId]) -> None:
    """Forget gaps that nobody can fill."""
    for chunk in chunked(missing):
        conn.execute(delete(g).where(g.c.room_id == room_id, g.c.missing_id.in_(chunk)))


def save_waiting_redaction(conn: Connection, room_id: RoomId, target_id: EventId, redaction_id: EventId) -> None:
    conn.execute(_INSERT_WAITING, {"room_id": room_id, "target_id": target_id, "redaction_id": redaction_id})


def load_waiting_redactions(
    conn: Connection, room_id: RoomId, event_ids: Collection[EventId]
) -> dict[EventId, list[EventId]]:
    """Redactions that came before what they redact, by the latter."""
    waiting: dict[EventId, list[EventId]] = {}
    for chunk in chunked(event_ids):
        for target_id, redaction_id in conn.execute(_WAITING, {"room_id": room_id, "ids": chunk}):
            waiting.setdefault(target_id, []).append(redaction_id)
    return waiting


def delete_waiting_redactions(conn: Connection, room_id: RoomId, event_id: EventId) -> None:
    conn.execute(delete(w).where(w.c.room_id == room_id, w.c.target_id == event_id))
