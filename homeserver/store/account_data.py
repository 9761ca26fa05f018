"""Account data, global (room_id "") and per room.

What the server removes stays as an empty row at the position where that happened: so clients are told of it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

import orjson
from attrs import frozen
from sqlalchemy import Connection, bindparam, select, update

from homeserver.matrix.canonical import encode_json
from homeserver.runtime.statement import Statement
from homeserver.store.events import chunked
from homeserver.store.tables.accounts import account_data
from homeserver.store.upsert import upsert

GLOBAL = ""
_REMOVED: Final = b""


@frozen
class AccountDataRow:
    room_id: str  # "" for global account data
    type: str
    content: bytes  # JSON, ready to be spliced into a response; {} for what was removed
    position: int
    is_removed: bool


_ONE = select(account_data.c.content).where(
    account_data.c.user_id == bindparam("user"),
    account_data.c.room_id == bindparam("room"),
    account_data.c.type == bindparam("type"),
)
_COLUMNS = (account_data.c.room_id, account_data.c.type, account_data.c.content, account_data.c.position)
_BETWEEN = Statement(
    select(*_COLUMNS)
    .where(
        account_data.c.user_id == bindparam("user"),
        account_data.c.position > bindparam("after"),
        account_data.c.position <= bindparam("upto"),
    )
    .order_by(account_data.c.position)
)
_OF_ROOM = select(*_COLUMNS).where(
    account_data.c.user_id == bindparam("user"), account_data.c.room_id == bindparam("room")
)
_UPSERT = upsert(account_data)
_REMOVE = (
    update(account_data)
    .where(
        account_data.c.user_id == bindparam("user"),
        account_data.c.room_id == GLOBAL,
        account_data.c.type.in_(bindparam("types", expanding=True)),
        account_data.c.content != _REMOVED,
    )
    .values(content=_REMOVED, position=bindparam("at"))
)


def load_account_data(conn: Connection, user_id: str, room_id: str, type_: str) -> bytes | None:
    """The content as JSON; None when it was never set, or was removed."""
    return conn.scalar(_ONE, {"user": user_id, "room": room_id, "type": type_}) or None


def load_account_data_between(conn: Connection, user_id: str, after: int, upto: int) -> list[AccountDataRow]:
    """What was last set or removed at a position in (after, upto], in that order; after=0 gives all."""
    return [_row(*row) for row in _BETWEEN.all(conn, {"user": user_id, "after": after, "upto": upto})]


def load_room_account_data(conn: Connection, user_id: str, room_id: str) -> list[AccountDataRow]:
    """All that the user ever set for a room."""
    return [_row(*row) for row in conn.execute(_OF_ROOM, {"user": user_id, "room": room_id})]


def save_account_data(conn: Connection, user_id: str, room_id: str, type_: str, content: bytes, position: int) -> None:
    values = {"user_id": user_id, "room_id": room_id, "type": type_, "position": position, "content": content}
    conn.execute(_UPSERT, values)


def remove_account_data(conn: Connection, user_id: str, types: Collection[str], position: int) -> None:
    """Remove global account data; what is not there is passed over."""
    for chunk in chunked(types):
        conn.execute(_REMOVE, {"user": user_id, "types": chunk, "at": position})


def save_tag(
    conn: Connection, user_id: str, room_id: str, tag: str, value: dict[str, Any] | None, position: int
) -> None:
    """Set one tag of a room, or remove it (None), within the m.tag account data."""
    content = orjson.loads(load_account_data(conn, user_id, room_id, "m.tag") or b"{}")
    tags = content.get("tags")
    if not isinstance(tags, dict):  # m.tag may have been set to anything through account data
        tags = {}
    if value is None:
        tags.pop(tag, None)
    else:
        tags[tag] = value
    save_account_data(conn, user_id, room_id, "m.tag", encode_json({"tags": tags}), position)


def _row(room_id: str, type_: str, content: bytes, position: int) -> AccountDataRow:
    return AccountDataRow(room_id, type_, content or b"{}", position, content == _REMOVED)
