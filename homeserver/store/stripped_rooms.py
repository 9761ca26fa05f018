"""What local users were told of rooms that they are invited to, or knocked at, and that this server is not in."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import orjson
from attrs import frozen
from sqlalchemy import Connection, bindparam, delete, select

from homeserver.matrix.ids import EventId, RoomId, UserId
from homeserver.store.events import chunked
from homeserver.store.tables.federated_rooms import stripped_rooms as s
from homeserver.store.upsert import upsert


@frozen
class StrippedRoom:
    """A room as it was shown with an invite or a knock. version: its room version. state: stripped state events."""

    user_id: UserId
    room_id: RoomId
    version: str
    event_id: EventId
    state: Sequence[dict[str, Any]]


_UPSERT = upsert(s)
_OF_USERS = select(s.c.user_id, s.c.room_id, s.c.version, s.c.event_id, s.c.state).where(
    s.c.user_id.in_(bindparam("users", expanding=True))
)


def save_stripped(conn: Connection, room: StrippedRoom) -> None:
    row = {"user_id": room.user_id, "room_id": room.room_id, "version": room.version, "event_id": room.event_id}
    conn.execute(_UPSERT, [row | {"state": orjson.dumps(room.state)}])


def load_stripped(conn: Connection, user_ids: Collection[UserId]) -> dict[UserId, dict[RoomId, StrippedRoom]]:
    """All such rooms of each of the users."""
    found: dict[UserId, dict[RoomId, StrippedRoom]] = {user_id: {} for user_id in user_ids}
    for chunk in chunked(user_ids):
        for row in conn.execute(_OF_USERS, {"users": chunk}):
            found[row[0]][row[1]] = StrippedRoom(row[0], row[1], row[2], row[3], orjson.loads(row[4]))
    return found


def delete_stripped(conn: Connection, room_id: RoomId, user_ids: Collection[str]) -> None:
    for chunk in chunked(user_ids):
        conn.execute(delete(s).where(s.c.room_id == room_id, s.c.user_id.in_(chunk)))
