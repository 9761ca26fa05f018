"""Rooms that were joined with the members left out, until their full state has come."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import orjson
from attrs import frozen
from sqlalchemy import Connection, delete, select

from homeserver.matrix.ids import EventId, RoomId, ServerName
from homeserver.store.events import chunked
from homeserver.store.tables.federated_rooms import partial_rooms as p
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


def load_partial_servers(conn: Connection, room_ids: Collection[RoomId]) -> dict[RoomId, Sequence[ServerName]]:
    """Of those of the rooms whose members are not all known: the servers in them, as the resident server told."""
    return {
        row[0]: orjson.loads(row[1])
        for chunk in chunked(room_ids)
        for row in conn.execute(select(p.c.room_id, p.c.servers).where(p.c.room_id.in_(chunk)))
    }


def load_partial_rooms(conn: Connection) -> list[PartialRoom]:
    """All of them, oldest first."""
    rows = conn.execute(select(p.c.room_id, p.c.event_id, p.c.servers, p.c.position).order_by(p.c.position))
    return [PartialRoom(row[0], row[1], orjson.loads(row[2]), row[3]) for row in rows]
