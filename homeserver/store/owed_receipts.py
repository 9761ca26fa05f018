"""Which of our users' receipts other servers have not got yet: rows of kind "receipt" in the backlogs.

Such a row names a room, and the position from which on its receipts are owed. It goes when there is none from there on, which is
looked for in the transaction that takes it away: a receipt is written before the row that says it is owed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from attrs import frozen
from sqlalchemy import BindParameter, ColumnElement, Connection, and_, bindparam, delete, func, select, text, update

from homeserver.matrix.ids import EventId, RoomId, ServerName, UserId
from homeserver.store.tables.outbound import outbound_backlogs as b
from homeserver.store.tables.rooms import receipts as r

RECEIPT = "receipt"
READ = "m.read"

RoomOfServer = tuple[ServerName, RoomId]


@frozen
class OwedReceiptsWrite:
    """Of servers' rooms: from where on receipts are owed, and before where they were sent; and servers that are owed nothing."""

    owed: Mapping[RoomOfServer, int]
    sent_before: Mapping[RoomOfServer, int]
    forgotten: Collection[ServerName]


@frozen
class OwedReceipt:
    user_id: UserId
    thread_id: str
    event_id: EventId
    ts_ms: int
    position: int


@frozen
class OwedRoom:
    """since: the position from which on receipts are owed; these are the oldest of them."""

    room_id: RoomId
    since: int
    receipts: list[OwedReceipt]


def _is_ours(own: BindParameter[str]) -> ColumnElement[bool]:
    """Whether the receipt is for other servers to know. own: a colon and the server's name."""
    return and_(
        r.c.receipt_type == READ, func.substr(r.c.user_id, func.length(r.c.user_id) - func.length(own) + 1) == own
    )


_OWN: BindParameter[str] = bindparam("own", type_=r.c.user_id.type)
_PLACE = (b.c.server == bindparam("b_server"), b.c.kind == RECEIPT, b.c.key == bindparam("b_key"))
_NOTE = text(
    "INSERT INTO outbound_backlogs (server, kind, key, position) VALUES (:server, 'receipt', :key, :position) "
    "ON CONFLICT (server, kind, key) DO UPDATE SET position = excluded.position "
    "WHERE outbound_backlogs.position > excluded.position"
)
_ADVANCE = update(b).where(*_PLACE, b.c.position < bindparam("b_before")).values(position=bindparam("b_before"))
_LEFT = select(r.c.position).where(r.c.room_id == b.c.key, r.c.position >= b.c.position, _is_ours(_OWN)).correlate(b)
_DONE = delete(b).where(*_PLACE, ~_LEFT.exists())
_FORGET = delete(b).where(b.c.server == bindparam("b_server"), b.c.kind == RECEIPT)


def save_owed_receipts(conn: Connection, write: OwedReceiptsWrite, own_server: ServerName) -> None:
    if write.forgotten:
        conn.execute(_FORGET, [{"b_server": server} for server in write.forgotten])
    if write.owed:
        owed = write.owed.items()
        conn.execute(_NOTE, [{"server": server, "key": room_id, "position": at} for (server, room_id), at in owed])
    if write.sent_before:
        sent = write.sent_before.items()
        places = [{"b_server": server, "b_key": room_id, "b_before": before} for (server, room_id), before in sent]
        conn.execute(_ADVANCE, places)
        conn.execute(_DONE, [{**_without_position(place), "own": f":{own_server}"} for place in places])


def _without_position(place: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in place.items() if name != "b_before"}


_ROOMS = (
    select(b.c.key, b.c.position)
    .where(b.c.server == bindparam("b_server"), b.c.kind == RECEIPT)
    .order_by(b.c.position, b.c.key)
    .limit(bindparam("rooms"))
    .subquery()
)
_OWED = (
    select(_ROOMS.c.key, _ROOMS.c.position, r.c.user_id, r.c.thread_id, r.c.event_id, r.c.ts_ms, r.c.position)
    .select_from(
        _ROOMS.outerjoin(r, and_(r.c.room_id == _ROOMS.c.key, r.c.position >= _ROOMS.c.position, _is_ours(_OWN)))
    )
    .order_by(_ROOMS.c.position, _ROOMS.c.key, r.c.position)
    .limit(bindparam("limit"))
)


def load_owed_receipts(
    conn: Connection, server: ServerName, own_server: ServerName, rooms: int, limit: int
) -> list[OwedRoom]:
    """At most `limit` receipts of at most so many rooms that the server is owed receipts of. The last may have more."""
    names = {"b_server": server, "own": f":{own_server}", "rooms": rooms, "limit": limit}
    found: dict[RoomId, OwedRoom] = {}
    for room_id, since, *receipt in conn.execute(_OWED, names):
        room = found.setdefault(room_id, OwedRoom(room_id, since, []))
        if receipt[0] is not None:
            room.receipts.append(OwedReceipt(*receipt))
    return list(found.values())
