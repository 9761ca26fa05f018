"""Local users' invites and knocks in rooms that this server is not in.

Their events are not among the stored events: nobody here can judge them, so no other event may build on them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import orjson
from attrs import frozen
from sqlalchemy import Connection, delete, select

from homeserver.matrix.ids import RoomId, ServerName, UserId
from homeserver.matrix.pdu import Pdu, load_pdu
from homeserver.matrix.versions import room_version
from homeserver.store.events import chunked
from homeserver.store.tables.federated_rooms import outside_rooms as o
from homeserver.store.upsert import upsert


@frozen
class OutsideRoom:
    """A user's newest membership of such a room, and what was told of the room with it.

    state: stripped state events; that of the member event is not among them. servers: likely to be in the room.
    """

    user_id: UserId
    event: Pdu
    state: Sequence[dict[str, Any]]
    servers: Sequence[ServerName]


_UPSERT = upsert(o)


def save_outside_room(conn: Connection, room: OutsideRoom) -> None:
    event = room.event
    row: dict[str, Any] = {"user_id": room.user_id, "room_id": event.room_id, "version": event.version.identifier}
    row |= {"event_id": event.event_id, "event": event.json_bytes, "state": orjson.dumps(room.state)}
    conn.execute(_UPSERT, [row | {"servers": orjson.dumps(room.servers).decode()}])


def load_outside_room(conn: Connection, user_id: UserId, room_id: RoomId) -> OutsideRoom | None:
    row = conn.execute(select(o).where(o.c.user_id == user_id, o.c.room_id == room_id)).first()
    if row is None:
        return None
    event = load_pdu(row.event, room_version(row.version), row.event_id)
    return OutsideRoom(user_id, event, orjson.loads(row.state), orjson.loads(row.servers))


def delete_outside_rooms(conn: Connection, room_id: RoomId, user_ids: Collection[str]) -> None:
    """This server is in the room now."""
    for chunk in chunked(user_ids):
        conn.execute(delete(o).where(o.c.room_id == room_id, o.c.user_id.in_(chunk)))
