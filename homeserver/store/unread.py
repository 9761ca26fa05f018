"""What a user has not read: the events behind their receipts that notify."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from attrs import frozen
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Select,
    and_,
    bindparam,
    case,
    cast,
    exists,
    literal_column,
    null,
    or_,
    select,
)

from homeserver.matrix.ids import EventId, RoomId, UserId
from homeserver.runtime.statement import Members, Statement
from homeserver.store.events import chunked
from homeserver.store.tables.rooms import events as e
from homeserver.store.tables.rooms import receipts as r

# The bits of events.push_outcome: what the default push rules say to a member who is not mentioned, whether mentions in
# the event may say more to those whom it names, and whether the sender has thereby read what was before.
NOTIFIES = 1
HIGHLIGHTS = 2
MENTIONS = 4
READS = 8
# Without NOTIFIES (nor HIGHLIGHTS): it notifies those who are subscribed to its thread.
NOTIFIES_SUBSCRIBERS = 16
# What may be unread for others.
CONCERNS_OTHERS = NOTIFIES | HIGHLIGHTS | MENTIONS | NOTIFIES_SUBSCRIBERS
# Events that were stored before there was READS: nearly all that notify are messages.
_READ_BY_SENDER = NOTIFIES | READS
# Named one by one, so that every planner prefers the index of threads to that of the timeline.
_ANY_OUTCOME = (
    *range(1, 2 * READS),
    *(NOTIFIES_SUBSCRIBERS | mentions | reads for mentions in (0, MENTIONS) for reads in (0, READS)),
)

# No client shows more; and a user who was away for a year must not fill the memory.
MAX_UNREAD = 10_000
# Of all the rooms that one statement asks for, the newest.
MAX_ROWS = 200_000
READ_TYPES = frozenset({"m.read", "m.read.private"})


@frozen
class UnreadRow:
    """An event that may notify, or that its sender wrote. json: the PDU, only where it mentions somebody."""

    order: int
    event_id: EventId
    sender: UserId
    thread_root: EventId | None
    outcome: int
    json: bytes | None


@frozen
class Floors:
    """The orders up to which a room is read: outside of threads, and at least in each thread."""

    main: int
    threads: int


def is_read_by_sender(outcome: int) -> bool:
    """Whoever sent the event has read what was before it, in its thread.

    Spec: client-server-api#marking-notifications-as-read
    """
    return bool(outcome & _READ_BY_SENDER)


def load_notifying(conn: Connection, floors: Mapping[RoomId, Floors], user_id: UserId) -> dict[RoomId, list[UnreadRow]]:
    """For each room the events behind its floors that may notify the user, and the user's own, oldest first.

    Of a thread only those behind the user's receipt for it.
    """
    found: dict[RoomId, list[UnreadRow]] = {room_id: [] for room_id in floors}
    for chunk in chunked(floors.items(), 300):
        outside = {room_id: at.main for room_id, at in chunk}
        inside = {room_id: at.threads for room_id, at in chunk}
        for statement, from_floors in ((_OUTSIDE_THREADS, outside), (_IN_THREADS, inside)):
            values = {"floors": orjson.dumps(from_floors).decode(), "user_id": user_id}
            for row in statement.all(conn, values):
                found[row[0]].append(UnreadRow(*row[1:]))
    return {room_id: sorted(rows, key=lambda row: row.order)[-MAX_UNREAD:] for room_id, rows in found.items()}


def _select_outside_threads() -> Select[Any]:
    return _select_behind_floors().where(e.c.thread_root.is_(None), e.c.push_outcome > 0)


def select_in_threads() -> Select[Any]:
    in_thread = (e.c.thread_root.is_not(None), e.c.push_outcome.in_([literal_column(str(n)) for n in _ANY_OUTCOME]))
    return _select_behind_floors().where(*in_thread, ~_has_read_thread())


def _select_behind_floors() -> Select[Any]:
    """Of the user user_id and the rooms that are the keys of the JSON object floors."""
    floor = Members("floors").table_valued("key", "value", name="floors")
    mentioning = case((e.c.push_outcome.bitwise_and(MENTIONS) > 0, e.c.json), else_=null())
    of_others = and_(e.c.redacted_by.is_(None), e.c.push_outcome.bitwise_and(CONCERNS_OTHERS) > 0)
    return (
        select(e.c.room_id, e.c.timeline_order, e.c.event_id, e.c.sender, e.c.thread_root, e.c.push_outcome, mentioning)
        .select_from(floor)
        .join(e, and_(e.c.room_id == floor.c.key, e.c.timeline_order > cast(floor.c.value, BigInteger)))
        .where(or_(e.c.sender == bindparam("user_id"), of_others))
        .where(e.c.rejected.is_(None), e.c.soft_failed.is_(False))
        .order_by(e.c.timeline_order.desc())
        .limit(MAX_ROWS)
    )


def _has_read_thread() -> ColumnElement[bool]:
    """The user has a receipt in the event's thread for the event or a later one."""
    return exists().where(
        r.c.room_id == e.c.room_id,
        r.c.user_id == bindparam("user_id"),
        r.c.receipt_type.in_([literal_column(f"'{type_}'") for type_ in sorted(READ_TYPES)]),
        r.c.thread_id == e.c.thread_root,
        r.c.event_order >= e.c.timeline_order,
    )


_OUTSIDE_THREADS = Statement(_select_outside_threads())
_IN_THREADS = Statement(select_in_threads())
