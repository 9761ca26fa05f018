"""What a user has not read: receipts, and the events behind them that notify."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import frozen
from sqlalchemy import BigInteger, Connection, Select, Text, and_, case, column, null, select, values

from homeserver.matrix.ids import EventId, RoomId, UserId
from homeserver.store.events import chunked
from homeserver.store.tables.rooms import events as e

# The bits of events.push_outcome: what the default push rules say to a member who is not mentioned, and whether
# mentions in the event may say more to those whom it names.
NOTIFIES = 1
HIGHLIGHTS = 2
MENTIONS = 4

# No client shows more; and a user who was away for a year must not fill the memory.
MAX_UNREAD = 10_000


@frozen
class UnreadRow:
    """An event that may notify. json: the PDU, only where it mentions somebody."""

    order: int
    event_id: EventId
    sender: UserId
    thread_root: EventId | None
    outcome: int
    json: bytes | None


def load_notifying(conn: Connection, floors: Mapping[RoomId, int], sender_not: UserId) -> dict[RoomId, list[UnreadRow]]:
    """For each room the events behind its floor that may notify, oldest first; not those of the user's own."""
    found: dict[RoomId, list[UnreadRow]] = {room_id: [] for room_id in floors}
    for chunk in chunked(floors.items(), 300):
        for row in conn.execute(_statement(chunk, sender_not)):
            found[row[0]].append(UnreadRow(*row[1:]))
    return {room_id: rows[-MAX_UNREAD:] for room_id, rows in found.items()}


def _statement(floors: Sequence[tuple[RoomId, int]], sender_not: UserId) -> Select[Any]:
    floor = values(column("room_id", Text), column("floor", BigInteger), name="floors").data(list(floors)).cte("floors")
    mentioning = case((e.c.push_outcome >= MENTIONS, e.c.json), else_=null())
    return (
        select(e.c.room_id, e.c.timeline_order, e.c.event_id, e.c.sender, e.c.thread_root, e.c.push_outcome, mentioning)
        .select_from(floor)
        .join(e, and_(e.c.room_id == floor.c.room_id, e.c.timeline_order > floor.c.floor))
        .where(e.c.push_outcome > 0, e.c.redacted_by.is_(None), e.c.sender != sender_not)
        .where(e.c.rejected.is_(None), e.c.soft_failed.is_(False))
        .order_by(e.c.timeline_order)
    )
