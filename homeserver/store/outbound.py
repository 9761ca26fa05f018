"""What other servers have not got yet: the backlogs behind federation's cursor.

Everything up to the cursor has reached each server that it concerns, but for what stands in a backlog. So a server that
keeps up has no row here, and one that does not has a row for each room, not for each event.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import orjson
from attrs import frozen
from sqlalchemy import Connection, bindparam, delete, func, select, text, update

from homeserver.matrix.ids import EventId, RoomId, ServerName, UserId
from homeserver.matrix.versions import RoomVersion, room_version
from homeserver.runtime.statement import OneOf, Statement
from homeserver.store.events import chunked
from homeserver.store.log import LogRow, load_cursor, save_cursor
from homeserver.store.owed_receipts import RECEIPT, OwedReceiptsWrite, save_owed_receipts
from homeserver.store.tables.log import log
from homeserver.store.tables.outbound import outbound_backlogs as b
from homeserver.store.tables.rooms import memberships, rooms

CURSOR = "federation"
STICKY = "sticky"
"""Of rows in the log and in backlogs: one sticky event."""
MESSAGE = "edu"
"""Of rows in the log and in backlogs: one message to devices of a server's users."""
EMPTIED = "federation_messages"
"""A cursor: up to there the log holds only messages that stand in a backlog."""


@frozen
class BacklogRow:
    server: ServerName
    kind: str
    key: str
    position: int


@frozen
class BacklogWrite:
    """One transaction: rows that came or moved on, rows that were delivered, and servers that have everything up to a
    position."""

    cursor: int
    noted: Sequence[BacklogRow]
    delivered: Sequence[BacklogRow]
    caught_up: Mapping[ServerName, int]
    receipts: OwedReceiptsWrite


_NOTE = text(
    "INSERT INTO outbound_backlogs (server, kind, key, position) VALUES (:server, :kind, :key, :position) "
    "ON CONFLICT (server, kind, key) DO UPDATE SET position = excluded.position "
    "WHERE outbound_backlogs.position < excluded.position"
)
_DELIVERED = delete(b).where(
    b.c.server == bindparam("b_server"),
    b.c.kind == bindparam("b_kind"),
    b.c.key == bindparam("b_key"),
    b.c.position <= bindparam("b_position"),
)
_CAUGHT_UP = delete(b).where(
    b.c.server == bindparam("b_server"), b.c.kind != RECEIPT, b.c.position <= bindparam("b_position")
)


_OF_SERVER = (b.c.server == bindparam("b_server"), b.c.kind == MESSAGE)
# What a message says is of no use once it is delivered.
_EMPTY = {"data": b"{}"}
_EMPTY_ONE = update(log).where(log.c.position == bindparam("b_position"), log.c.kind == MESSAGE).values(_EMPTY)
_EMPTY_UPTO = (
    update(log)
    .where(log.c.position.in_(select(b.c.position).where(*_OF_SERVER, b.c.position <= bindparam("b_position"))))
    .values(_EMPTY)
)


def save_backlogs(conn: Connection, write: BacklogWrite, own_server: ServerName) -> None:
    """The order within does not matter: what is noted is newer than what was delivered."""
    if write.caught_up:
        rows = [{"b_server": server, "b_position": position} for server, position in write.caught_up.items()]
        conn.execute(_EMPTY_UPTO, rows)
        conn.execute(_CAUGHT_UP, rows)
    if write.delivered:
        conn.execute(
            _DELIVERED,
            [
                {"b_server": r.server, "b_kind": r.kind, "b_key": r.key, "b_position": r.position}
                for r in write.delivered
            ],
        )
        messages = [{"b_position": row.position} for row in write.delivered if row.kind == MESSAGE]
        if messages:
            conn.execute(_EMPTY_ONE, messages)
    if write.noted:
        conn.execute(
            _NOTE,
            [{"server": r.server, "kind": r.kind, "key": r.key, "position": r.position} for r in write.noted],
        )
    save_owed_receipts(conn, write.receipts, own_server)
    save_cursor(conn, CURSOR, write.cursor)


def load_servers_behind(conn: Connection) -> list[ServerName]:
    return list(conn.execute(select(b.c.server).distinct()).scalars())


_OF_KIND = select(b.c.server, b.c.kind, b.c.key, b.c.position).where(
    b.c.server == bindparam("server"), b.c.kind == bindparam("kind")
)
_NEWEST = _OF_KIND.order_by(b.c.position.desc()).limit(bindparam("limit"))
_OLDEST = _OF_KIND.order_by(b.c.position.asc()).limit(bindparam("limit"))


def load_backlog(
    conn: Connection, server: ServerName, newest: Mapping[str, int], oldest: Mapping[str, int]
) -> list[BacklogRow]:
    """Of each kind in `newest` that many rows from the newest on, of each in `oldest` from the oldest on."""
    return [
        BacklogRow(*row)
        for statement, kinds in ((_NEWEST, newest), (_OLDEST, oldest))
        for kind, limit in kinds.items()
        for row in conn.execute(statement, {"server": server, "kind": kind, "limit": limit})
    ]


_ROWS = select(log.c.position, log.c.kind, log.c.key, log.c.data).where(
    log.c.position.in_(bindparam("positions", expanding=True))
)


def load_log_rows(conn: Connection, positions: Collection[int]) -> dict[int, LogRow]:
    """The rows at these positions, without their events."""
    return {
        row[0]: LogRow(row[0], row[1], row[2], orjson.loads(row[3]))
        for chunk in chunked(positions)
        for row in conn.execute(_ROWS, {"positions": list(chunk)})
    }


_VERSIONS = Statement(select(rooms.c.room_id, rooms.c.version).where(OneOf(rooms.c.room_id, "ids")), texts=["ids"])
_JOINED_SOMEWHERE = (
    select(memberships.c.user_id)
    .where(memberships.c.user_id.in_(bindparam("ids", expanding=True)), memberships.c.membership == "join")
    .distinct()
)
_JOINED = Statement(
    select(memberships.c.room_id, memberships.c.user_id).where(
        OneOf(memberships.c.room_id, "ids"), memberships.c.membership == "join"
    ),
    texts=["ids"],
)


def load_versions(conn: Connection, room_ids: Collection[RoomId]) -> dict[RoomId, RoomVersion]:
    """The versions of those of the rooms that there are."""
    return {RoomId(row[0]): room_version(row[1]) for row in _VERSIONS.all(conn, {"ids": list(room_ids)})}


def load_joined(conn: Connection, room_ids: Collection[RoomId]) -> dict[RoomId, list[UserId]]:
    """Who is joined to each of the rooms."""
    found: dict[RoomId, list[UserId]] = {room_id: [] for room_id in room_ids}
    for room_id, user_id in _JOINED.all(conn, {"ids": list(room_ids)}):
        found[RoomId(room_id)].append(UserId(user_id))
    return found


def load_joined_somewhere(conn: Connection, user_ids: Collection[UserId]) -> set[UserId]:
    """Those of the users who are joined to a room that this server knows."""
    return {user_id for chunk in chunked(user_ids) for user_id in conn.scalars(_JOINED_SOMEWHERE, {"ids": list(chunk)})}


def load_event_ids(conn: Connection, positions: Collection[int]) -> dict[int, EventId]:
    """Position -> the event that the log names there."""
    rows = load_log_rows(conn, positions)
    return {position: row.data["event_id"] for position, row in rows.items() if "event_id" in row.data}


# -- upkeep ------------------------------------------------------------------------------------------------------------


def load_waiting_messages(conn: Connection) -> dict[ServerName, int]:
    """How many messages wait for each server that does not keep up."""
    counted = select(b.c.server, func.count()).where(b.c.kind == MESSAGE).group_by(b.c.server)
    return {ServerName(row[0]): row[1] for row in conn.execute(counted)}


def drop_messages(conn: Connection, server: ServerName, excess: int, before_ts_ms: int, limit: int) -> int:
    """Give up the server's oldest messages: `excess` of them, and those from before then; `limit` at most. How many it were."""
    oldest = (
        select(b.c.position, log.c.data)
        .join(log, log.c.position == b.c.position)
        .where(*_OF_SERVER)
        .order_by(b.c.position)
        .limit(limit)
    )
    dropped = []
    for place, (position, data) in enumerate(conn.execute(oldest, {"b_server": server})):
        if place >= excess and orjson.loads(data).get("sent_ts_ms", before_ts_ms) >= before_ts_ms:
            break
        dropped.append(position)
    if dropped:
        upto = [{"b_server": server, "b_position": dropped[-1]}]
        conn.execute(_EMPTY_UPTO, upto)
        conn.execute(_CAUGHT_UP.where(b.c.kind == MESSAGE), upto)
    return len(dropped)


def drop_sticky(conn: Connection, upto: int) -> None:
    """Give up the sticky events up to a position of the log, whoever lacks them."""
    conn.execute(delete(b).where(b.c.kind == STICKY, b.c.position <= upto))


def empty_delivered_messages(conn: Connection, limit: int) -> bool:
    """Empty those among the next `limit` rows of the log that everybody has; whether there may be more."""
    begin, end = load_cursor(conn, EMPTIED) or 0, load_cursor(conn, CURSOR) or 0
    upto = min(begin + limit, end)
    if upto <= begin:
        return False
    waiting = select(b.c.position).where(b.c.server == log.c.key, b.c.kind == MESSAGE, b.c.position == log.c.position)
    rows = (log.c.position > begin, log.c.position <= upto, log.c.kind == MESSAGE, ~waiting.exists())
    conn.execute(update(log).where(*rows).values(_EMPTY))
    save_cursor(conn, EMPTIED, upto)
    return upto < end
