"""Who is in which room."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from attrs import frozen
from sqlalchemy import Connection, bindparam, func, select, update

from homeserver.matrix.ids import EventId, RoomId, UserId
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
_OF_USERS = select(*_COLUMNS).where(m.c.user_id.in_(bindparam("users", expanding=True)))


def load_memberships(conn: Connection, user_ids: Collection[UserId]) -> dict[UserId, dict[RoomId, MembershipRow]]:
    """All memberships of each of the users, forgotten ones too."""
    found: dict[UserId, dict[RoomId, MembershipRow]] = {user_id: {} for user_id in user_ids}
    for chunk in chunked(user_ids):
        for row in conn.execute(_OF_USERS, {"users": chunk}):
            found[row[0]][row[1]] = MembershipRow(*row[:6], bool(row[6]))
    return found


_OF_ROOM = select(*_COLUMNS).where(m.c.room_id == bindparam("room_id"))


def load_room_members(conn: Connection, room_id: RoomId) -> list[MembershipRow]:
    return [MembershipRow(*row[:6], bool(row[6])) for row in conn.execute(_OF_ROOM, {"room_id": room_id})]


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
