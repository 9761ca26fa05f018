"""Who is in which room."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from attrs import frozen
from sqlalchemy import Connection, bindparam, func, select, update

from homeserver.matrix.ids import EventId, RoomId, UserId
from homeserver.runtime.statement import OneOf, Statement
from homeserver.store.events import chunked
from homeserver.store.tables.rooms import memberships as m


@frozen
class MembershipRow:
    """A user's newest membership of a room. position: of the event that gave it."""

    user_id: UserId
    room_id: RoomId
    membership: str
    event_id: EventId
    sender: UserId
    position: int
    forgotten: bool


_COLUMNS = (m.c.user_id, m.c.room_id, m.c.membership, m.c.event_id, m.c.sender, m.c.position, m.c.forgotten)


def _row(columns: Sequence[Any]) -> MembershipRow:
    user_id, room_id, membership, event_id, sender, position, forgotten = columns
    return MembershipRow(user_id, room_id, membership, event_id, sender, position, bool(forgotten))


_OF_USERS = Statement(select(*_COLUMNS).where(OneOf(m.c.user_id, "users")), texts=["users"])


def load_memberships(conn: Connection, user_ids: Collection[UserId]) -> dict[UserId, dict[RoomId, MembershipRow]]:
    """All memberships of each of the users, forgotten ones too."""
    found: dict[UserId, dict[RoomId, MembershipRow]] = {user_id: {} for user_id in user_ids}
    for row in _OF_USERS.all(conn, {"users": list(user_ids)}):
        found[row[0]][row[1]] = _row(row)
    return found


_OF_ROOM = Statement(select(*_COLUMNS).where(m.c.room_id == bindparam("room_id")))


def load_room_members(conn: Connection, room_id: RoomId) -> list[MembershipRow]:
    return [_row(row) for row in _OF_ROOM.all(conn, {"room_id": room_id})]


def save_forgotten(conn: Connection, user_id: UserId, room_id: RoomId) -> None:
    conn.execute(update(m).where(m.c.user_id == user_id, m.c.room_id == room_id).values(forgotten=True))


def count_joined(conn: Connection, room_ids: Sequence[RoomId]) -> dict[RoomId, int]:
    """Joined members of each room that has any."""
    statement = (
        select(m.c.room_id, func.count())
        .where(m.c.room_id.in_(bindparam("ids", expanding=True)), m.c.membership == "join")
        .group_by(m.c.room_id)
    )
    return {row[0]: row[1] for chunk in chunked(room_ids) for row in conn.execute(statement, {"ids": chunk})}
