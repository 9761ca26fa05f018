"""Which threads a user is subscribed to, or was."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from attrs import frozen
from sqlalchemy import Connection, select

from homeserver.matrix.ids import EventId, RoomId, UserId
from homeserver.store.events import chunked
from homeserver.store.tables.threads import thread_subscriptions as t
from homeserver.store.upsert import upsert


@frozen
class ThreadSubscription:
    """The newest change of a thread's subscription. position: in the log."""

    room_id: RoomId
    thread_root: EventId
    subscribed: bool
    automatic: bool
    position: int


_UPSERT = upsert(t)
_COLUMNS = (t.c.room_id, t.c.thread_root, t.c.subscribed, t.c.automatic, t.c.position)


def load_subscription(
    conn: Connection, user_id: UserId, room_id: RoomId, thread_root: EventId
) -> ThreadSubscription | None:
    """None when the user never subscribed."""
    found = conn.execute(
        select(*_COLUMNS).where(t.c.user_id == user_id, t.c.room_id == room_id, t.c.thread_root == thread_root)
    ).first()
    return ThreadSubscription(*found) if found is not None else None


def load_subscribed_threads(
    conn: Connection, user_id: UserId, room_ids: Collection[RoomId]
) -> dict[RoomId, frozenset[EventId]]:
    """The roots of the threads that the user is subscribed to, in those of the rooms where there are any."""
    found: dict[RoomId, set[EventId]] = {}
    for chunk in chunked(room_ids):
        statement = select(t.c.room_id, t.c.thread_root).where(t.c.user_id == user_id, t.c.room_id.in_(chunk))
        for room_id, root in conn.execute(statement.where(t.c.subscribed)):
            found.setdefault(room_id, set()).add(root)
    return {room_id: frozenset(roots) for room_id, roots in found.items()}


def save_subscription(conn: Connection, user_id: UserId, change: ThreadSubscription) -> None:
    values = {
        "user_id": user_id,
        "room_id": change.room_id,
        "thread_root": change.thread_root,
        "subscribed": change.subscribed,
        "automatic": change.automatic,
        "position": change.position,
    }
    conn.execute(_UPSERT, values)


def load_subscription_changes(
    conn: Connection, user_id: UserId, after: int, before: int, limit: int
) -> Sequence[ThreadSubscription]:
    """The newest changes in (after, before), the newest first."""
    statement = select(*_COLUMNS).where(t.c.user_id == user_id, t.c.position > after, t.c.position < before)
    return [ThreadSubscription(*row) for row in conn.execute(statement.order_by(t.c.position.desc()).limit(limit))]
