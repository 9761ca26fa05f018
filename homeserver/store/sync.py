"""What /sync reads when memory has it not: the ends of timelines, gaps, receipts. Set-based throughout."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from attrs import frozen
from sqlalchemy import Connection, and_, bindparam, func, or_, select

from homeserver.matrix.ids import EventId, RoomId, UserId
from homeserver.matrix.versions import RoomVersion, room_version
from homeserver.runtime.statement import OneOf, Statement
from homeserver.store.events import StoredEvent, chunked, load_events, load_timelines
from homeserver.store.log import LogRow, StateDelta, load_head_position
from homeserver.store.tables.rooms import events as e
from homeserver.store.tables.rooms import receipts, rooms
from homeserver.store.tables.rooms import state_deltas as d

TAIL_EVENTS = 26  # a first sync of 25 events, and the one that tells whether there are more
PRIVATE_RECEIPT = "m.read.private"

# Only live events: what was fetched from before we joined a room is for scrolling back.
_LIVE = and_(e.c.timeline_order > 0, e.c.rejected.is_(None), e.c.soft_failed.is_(False))

_EARLIER = e.alias("earlier")
# The order of the event that is just too old for a room's tail; 0 where the tail is the whole timeline.
_FLOOR = func.coalesce(
    select(_EARLIER.c.timeline_order)
    .where(
        _EARLIER.c.room_id == rooms.c.room_id,
        _EARLIER.c.timeline_order > 0,
        _EARLIER.c.rejected.is_(None),
        _EARLIER.c.soft_failed.is_(False),
    )
    .order_by(_EARLIER.c.timeline_order.desc())
    .limit(1)
    .offset(TAIL_EVENTS)
    .correlate(rooms)
    .scalar_subquery(),
    0,
)
_TAIL_FLOORS = (
    select(rooms.c.room_id, rooms.c.version, _FLOOR.label("floor"))
    .where(rooms.c.room_id.in_(bindparam("ids", expanding=True)))
    .cte("tails")
)
_TAIL_EVENTS = select(_TAIL_FLOORS, e.c.event_id).join(
    e, and_(e.c.room_id == _TAIL_FLOORS.c.room_id, e.c.timeline_order > _TAIL_FLOORS.c.floor, _LIVE)
)
_TAIL_DELTAS = (
    select(d.c.room_id, d.c.position, d.c.type, d.c.state_key, d.c.event_id, d.c.prev_event_id)
    .join(_TAIL_FLOORS, and_(d.c.room_id == _TAIL_FLOORS.c.room_id, d.c.position > _TAIL_FLOORS.c.floor))
    .order_by(d.c.position)
)


def load_tails(conn: Connection, room_ids: Collection[RoomId]) -> dict[RoomId, tuple[int, list[LogRow]]]:
    """For each room a position, and all its live timeline events and state changes behind that, oldest
    first.
    """
    tails: dict[RoomId, tuple[int, list[LogRow]]] = {room_id: (0, []) for room_id in room_ids}
    for chunk in chunked(room_ids, 500):
        floors = {}
        versions = {}
        ids = []
        rows: Iterable[Any] = conn.execute(_TAIL_EVENTS, {"ids": chunk})
        for room_id, version, floor, event_id in rows:
            floors[room_id] = floor
            versions[room_id] = room_version(version)
            ids.append(event_id)
        deltas = _deltas(conn.execute(_TAIL_DELTAS, {"ids": chunk}))
        for room_id, of_room in _rows(load_events(conn, ids, versions), deltas, floors).items():
            tails[room_id] = (floors[room_id], of_room)
    return tails


_DELTAS_OF = select(d.c.room_id, d.c.position, d.c.type, d.c.state_key, d.c.event_id, d.c.prev_event_id)


def load_deltas(conn: Connection, after: Mapping[RoomId, int]) -> list[tuple[RoomId, int, StateDelta]]:
    """Each room's changes of its current state behind a position, oldest first."""
    found: list[tuple[RoomId, int, StateDelta]] = []
    for chunk in chunked(after.items(), 200):
        ranges = or_(*(and_(d.c.room_id == room_id, d.c.position > floor) for room_id, floor in chunk))
        found += _deltas(conn.execute(_DELTAS_OF.where(ranges).order_by(d.c.position)))
    return found


def _deltas(rows: Iterable[Any]) -> list[tuple[RoomId, int, StateDelta]]:
    return [(row[0], row[1], StateDelta((row[2], row[3]), row[4], row[5])) for row in rows]


def _rows(
    found: Iterable[StoredEvent], deltas: Iterable[tuple[RoomId, int, StateDelta]], room_ids: Iterable[RoomId]
) -> dict[RoomId, list[LogRow]]:
    """Events and deltas put together by position, as the log had them."""
    events_at: dict[RoomId, dict[int, StoredEvent]] = {room_id: {} for room_id in room_ids}
    deltas_at: dict[RoomId, dict[int, list[StateDelta]]] = {room_id: {} for room_id in events_at}
    for event in found:
        events_at[event.pdu.room_id][event.order] = event
    for room_id, position, delta in deltas:
        deltas_at[room_id].setdefault(position, []).append(delta)
    return {
        room_id: [
            LogRow(position, "event", room_id, {}, events_at[room_id].get(position), changes.get(position, ()))
            for position in sorted(events_at[room_id].keys() | changes.keys())
        ]
        for room_id, changes in deltas_at.items()
    }


@frozen
class Gap:
    """What a client missed of a room: events in (after, upto] (upto None: to the end), at most `limit`, the
    newest.

    with_state: the changes of the state behind `after` are wanted; else only those that came with the events.
    """

    room_id: RoomId
    after: int
    upto: int | None
    limit: int
    with_state: bool


@frozen
class LoadedGap:
    """All events in (events_floor, upto] and all changes of the state behind `deltas_floor`, as of
    `position`.
    """

    position: int
    events_floor: int
    rows: Sequence[LogRow]


_VERSIONS = select(rooms.c.room_id, rooms.c.version).where(rooms.c.room_id.in_(bindparam("ids", expanding=True)))


def load_gaps(conn: Connection, gaps: Sequence[Gap]) -> dict[Gap, LoadedGap]:
    """Gaps of different rooms."""
    position = load_head_position(conn)
    ids = [gap.room_id for gap in gaps]
    versions = {
        row[0]: room_version(row[1]) for chunk in chunked(ids) for row in conn.execute(_VERSIONS, {"ids": chunk})
    }
    timelines: dict[RoomId, list[StoredEvent]] = {}
    for limit in {gap.limit for gap in gaps}:
        timelines |= load_timelines(conn, [_range(gap, versions) for gap in gaps if gap.limit == limit], limit)
    floors = {gap.room_id: _events_floor(gap, timelines[gap.room_id]) for gap in gaps}
    deltas_after = {gap.room_id: gap.after if gap.with_state else floors[gap.room_id] for gap in gaps}
    found = [event for events in timelines.values() for event in events]
    rows = _rows(found, load_deltas(conn, deltas_after), ids)
    return {gap: LoadedGap(position, floors[gap.room_id], rows[gap.room_id]) for gap in gaps}


def _range(gap: Gap, versions: Mapping[RoomId, RoomVersion]) -> tuple[RoomId, RoomVersion, int, int]:
    return gap.room_id, versions[gap.room_id], gap.after, gap.upto if gap.upto is not None else 2**62


def _events_floor(gap: Gap, events: Sequence[StoredEvent]) -> int:
    return gap.after if len(events) < gap.limit or not events else events[0].order - 1


@frozen
class Place:
    """Where an event is in its room's timeline."""

    order: int
    room_id: RoomId
    event_id: EventId


_FOLLOWING = (
    select(e.c.timeline_order, e.c.room_id, e.c.event_id)
    .where(
        e.c.room_id.in_(bindparam("ids", expanding=True)),
        e.c.timeline_order > bindparam("after"),
        e.c.timeline_order <= bindparam("upto"),
        _LIVE,
    )
    .order_by(e.c.timeline_order)
    .limit(bindparam("limit"))
)


def load_following(conn: Connection, room_ids: Collection[RoomId], after: int, upto: int, limit: int) -> list[Place]:
    """The oldest `limit` live events of all of the rooms in (after, upto], oldest first."""
    found = [
        Place(*row)
        for chunk in chunked(room_ids)
        for row in conn.execute(_FOLLOWING, {"ids": chunk, "after": after, "upto": upto, "limit": limit})
    ]
    return sorted(found, key=lambda place: place.order)[:limit]


@frozen
class Receipt:
    room_id: RoomId
    user_id: UserId
    receipt_type: str
    thread_id: str  # "" for unthreaded
    event_id: EventId
    ts_ms: int


_RECEIPTS = Statement(
    select(
        receipts.c.room_id,
        receipts.c.user_id,
        receipts.c.receipt_type,
        receipts.c.thread_id,
        receipts.c.event_id,
        receipts.c.ts_ms,
    ).where(
        OneOf(receipts.c.room_id, "ids"),
        receipts.c.position > bindparam("after"),
        or_(receipts.c.receipt_type != PRIVATE_RECEIPT, receipts.c.user_id == bindparam("user")),
    ),
    texts=["ids"],
)


def load_receipts(
    conn: Connection, room_ids: Collection[RoomId], after: int, user_id: UserId
) -> tuple[int, dict[RoomId, list[Receipt]]]:
    """The log's position, and for each room the receipts behind `after` that the user may see."""
    found: dict[RoomId, list[Receipt]] = {room_id: [] for room_id in room_ids}
    for row in _RECEIPTS.all(conn, {"ids": list(room_ids), "after": after, "user": user_id}):
        found[RoomId(row[0])].append(Receipt(*row))
    return load_head_position(conn), found
