"""Leaves of local users from rooms that this server is not in, of which no other server knows yet."""

from __future__ import annotations

from attrs import asdict, frozen
from sqlalchemy import Connection, delete, select

from homeserver.matrix.ids import EventId, RoomId, ServerName, UserId
from homeserver.store.tables.federated_rooms import untold_leaves as t
from homeserver.store.upsert import upsert


@frozen
class UntoldLeave:
    """event_id: of the leave, as it stands here. server: of who invited the user."""

    user_id: UserId
    room_id: RoomId
    event_id: EventId
    server: ServerName
    since_ts_ms: int


_UPSERT = upsert(t)


def save_untold_leave(conn: Connection, leave: UntoldLeave) -> None:
    conn.execute(_UPSERT, [asdict(leave)])


def delete_untold_leave(conn: Connection, leave: UntoldLeave) -> None:
    """Unless a later one took its place."""
    conn.execute(
        delete(t).where(t.c.user_id == leave.user_id, t.c.room_id == leave.room_id, t.c.event_id == leave.event_id)
    )


def load_untold_leaves(conn: Connection) -> list[UntoldLeave]:
    """All of them, oldest first."""
    statement = select(t.c.user_id, t.c.room_id, t.c.event_id, t.c.server, t.c.since_ts_ms).order_by(t.c.since_ts_ms)
    return [UntoldLeave(*row) for row in conn.execute(statement).all()]
