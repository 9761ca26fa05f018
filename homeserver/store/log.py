"""The log's rows: what cursors and folds follow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
from attrs import frozen
from sqlalchemy import Connection, bindparam, insert, select, update

from homeserver.matrix.ids import EventId, UserId
from homeserver.matrix.state_map import StateKey
from homeserver.runtime.statement import Statement
from homeserver.store.events import StoredEvent
from homeserver.store.tables.log import cursors, log, log_head


@frozen
class StateDelta:
    """One key of the room's current state took another event (None: none)."""

    key: StateKey
    event_id: EventId | None
    prev_event_id: EventId | None


@frozen
class MembershipChange:
    user_id: UserId
    membership: str
    event_id: EventId
    sender: UserId


@frozen
class LogRow:
    """One durable change.

    kind "event": key is the room id, data {"event_id"}; `event`, and what it did to the current state, are set. Where the
    state changed without an event (it became known in full), data is empty and there are only `deltas`.
    Other kinds are described where their LogItem is made (docs/architecture.md lists them).
    """

    position: int
    kind: str
    key: str
    data: dict[str, Any]
    event: StoredEvent | None = None
    deltas: Sequence[StateDelta] = ()
    membership: MembershipChange | None = None

    @property
    def is_state_alone(self) -> bool:
        """The room's state became known in full, or was repaired: no event says so."""
        return self.kind == "event" and not self.data


# A membership that changed without an event of its own in the timeline: by state resolution, or in a room that this
# server is not in. The key is the room.
MEMBERSHIP = "membership"


def membership_item(room_id: str, change: MembershipChange) -> tuple[str, str, dict[str, Any]]:
    """Kind, key and data of the row."""
    data = {"user_id": change.user_id, "membership": change.membership}
    return MEMBERSHIP, room_id, data | {"event_id": change.event_id, "sender": change.sender}


def membership_row(room_id: str, position: int, change: MembershipChange) -> LogRow:
    return LogRow(position, *membership_item(room_id, change), membership=change)


def membership_of_row(kind: str, data: dict[str, Any]) -> MembershipChange | None:
    if kind != MEMBERSHIP:
        return None
    return MembershipChange(data["user_id"], data["membership"], data["event_id"], data["sender"])


_TAKE = Statement(
    update(log_head)
    .where(log_head.c.id == 1)
    .values(position=log_head.c.position + bindparam("count"))
    .returning(log_head.c.position)
)


def take_positions(conn: Connection, count: int) -> int:
    """The first of `count` new positions. Holds the log head to the end of the transaction: call it after every
    other lock is taken."""
    ((last,),) = _TAKE.all(conn, {"count": count})
    return int(last) - count + 1


_INSERT = Statement(insert(log), "position", "kind", "key", "data")


def save_rows(conn: Connection, rows: Sequence[LogRow]) -> None:
    _INSERT.run_many(
        conn,
        [{"position": row.position, "kind": row.kind, "key": row.key, "data": orjson.dumps(row.data)} for row in rows],
    )


_HEAD = Statement(select(log_head.c.position))


def load_head_position(conn: Connection) -> int:
    ((position,),) = _HEAD.all(conn, {})
    return int(position)


def load_rows(conn: Connection, after: int, limit: int) -> list[LogRow]:
    """Rows behind `after`, oldest first. `event` is never set."""
    statement = select(log.c.position, log.c.kind, log.c.key, log.c.data)
    rows = conn.execute(statement.where(log.c.position > after).order_by(log.c.position).limit(limit))
    return [_row(row[0], row[1], row[2], orjson.loads(row[3])) for row in rows]


def _row(position: int, kind: str, key: str, data: dict[str, Any]) -> LogRow:
    return LogRow(position, kind, key, data, membership=membership_of_row(kind, data))


def load_cursor(conn: Connection, name: str) -> int | None:
    return conn.execute(select(cursors.c.position).where(cursors.c.name == name)).scalar()


def save_cursor(conn: Connection, name: str, position: int) -> None:
    moved = conn.execute(update(cursors).where(cursors.c.name == name).values(position=position))
    if not moved.rowcount:
        conn.execute(insert(cursors).values(name=name, position=position))
