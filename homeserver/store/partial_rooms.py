"""Rooms that were joined with the members left out, until their full state has come."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import orjson
from attrs import frozen
from sqlalchemy import Connection, and_, bindparam, delete, or_, select, update

from homeserver.matrix.ids import EventId, RoomId, ServerName
from homeserver.matrix.versions import RoomVersion
from homeserver.runtime.statement import OneOf, Statement
from homeserver.store.events import StoredEvent, chunked, load_events
from homeserver.store.room_writes import NewEvent, add_unsaved
from homeserver.store.snapshots import Snapshot, save_snapshots
from homeserver.store.tables.federated_rooms import partial_rooms as p
from homeserver.store.tables.rooms import events as e
from homeserver.store.tables.rooms import state_snapshots as s
from homeserver.store.upsert import upsert


@frozen
class PartialRoom:
    """event_id: our join. servers: those in the room, as the resident server told. position: of the join."""

    room_id: RoomId
    event_id: EventId
    servers: Sequence[ServerName]
    position: int


_UPSERT = upsert(p)


def save_partial_room(
    conn: Connection, room_id: RoomId, event_id: EventId, servers: Sequence[ServerName], position: int
) -> None:
    """No servers: the state is full."""
    if not servers:
        conn.execute(delete(p).where(p.c.room_id == room_id))
        return
    row = {"room_id": room_id, "event_id": event_id, "servers": orjson.dumps(list(servers)).decode()}
    conn.execute(_UPSERT, [row | {"position": position}])


_SERVERS = Statement(select(p.c.room_id, p.c.servers).where(OneOf(p.c.room_id, "ids")), texts=["ids"])


def load_partial_servers(conn: Connection, room_ids: Collection[RoomId]) -> dict[RoomId, Sequence[ServerName]]:
    """Of those of the rooms whose members are not all known: the servers in them, as the resident server told."""
    return {RoomId(row[0]): orjson.loads(row[1]) for row in _SERVERS.all(conn, {"ids": list(room_ids)})}


def load_partial_rooms(conn: Connection) -> list[PartialRoom]:
    """All of them, oldest first."""
    rows = conn.execute(select(p.c.room_id, p.c.event_id, p.c.servers, p.c.position).order_by(p.c.position))
    return [PartialRoom(row[0], row[1], orjson.loads(row[2]), row[3]) for row in rows]


_SINCE = select(e.c.event_id).where(
    e.c.room_id == bindparam("room_id"),
    e.c.snapshot_before.is_not(None),
    # Hidden events have no place in the timeline; the nid of one that was an outlier first says nothing of when it came.
    or_(
        e.c.timeline_order >= bindparam("position"),
        and_(e.c.timeline_order.is_(None), e.c.nid >= bindparam("position")),
    ),
)


def load_events_since(conn: Connection, room: PartialRoom, version: RoomVersion) -> list[StoredEvent]:
    """The join, and what was taken in behind it; in no order."""
    ids = [row[0] for row in conn.execute(_SINCE, {"room_id": room.room_id, "position": room.position})]
    return load_events(conn, ids, {room.room_id: version})


_JUDGE = (
    update(e)
    .where(e.c.room_id == bindparam("b_room_id"), e.c.nid == bindparam("b_nid"))
    .values(
        snapshot_before=bindparam("b_before"), rejected=bindparam("b_rejected"), soft_failed=bindparam("b_soft_failed")
    )
)


def save_judged(conn: Connection, room_id: RoomId, judged: Sequence[NewEvent], position: int) -> None:
    """Write events' states and verdicts anew; snapshots that were made for them, and for heads since, are replaced."""
    nids = [new.event.nid for new in judged]
    for chunk in chunked([snapshot_id for nid in nids for snapshot_id in (2 * nid, 2 * nid + 1)]):
        conn.execute(delete(s).where(s.c.room_id == room_id, s.c.snapshot_id.in_(chunk)))
    conn.execute(delete(s).where(s.c.room_id == room_id, s.c.snapshot_id <= -position))
    unsaved: dict[Snapshot, int] = {}
    for new in judged:
        add_unsaved(unsaved, new)
    save_snapshots(conn, list(unsaved.items()))
    rows = []
    for new in judged:
        event = new.event
        event.snapshot_before = new.before.snapshot_id if new.before is not None else None
        row = {"b_room_id": room_id, "b_nid": event.nid, "b_before": event.snapshot_before}
        rows.append(row | {"b_rejected": event.rejected, "b_soft_failed": event.soft_failed})
    conn.execute(_JUDGE, rows)
