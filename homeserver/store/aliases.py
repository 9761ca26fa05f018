"""Room aliases of this server."""

from __future__ import annotations

from attrs import frozen
from sqlalchemy import Connection, bindparam, delete, select, update

from homeserver.matrix.ids import RoomAlias, RoomId, UserId
from homeserver.store.tables.rooms import room_aliases as a
from homeserver.store.upsert import insert_if_absent


@frozen
class AliasRow:
    alias: RoomAlias
    room_id: RoomId
    creator: UserId
    created_ts_ms: int


_COLUMNS = (a.c.alias, a.c.room_id, a.c.creator, a.c.created_ts_ms)
_ONE = select(*_COLUMNS).where(a.c.alias == bindparam("alias"))
_OF_ROOM = select(a.c.alias).where(a.c.room_id == bindparam("room_id")).order_by(a.c.created_ts_ms, a.c.alias)
_OF_MANY = select(*_COLUMNS).where(a.c.alias.in_(bindparam("aliases", expanding=True)))
_INSERT = insert_if_absent(a)


def load_alias(conn: Connection, alias: RoomAlias) -> AliasRow | None:
    row = conn.execute(_ONE, {"alias": alias}).first()
    return AliasRow(*row) if row else None


def load_aliases(conn: Connection, aliases: list[RoomAlias]) -> dict[RoomAlias, RoomId]:
    """Those of the aliases that there are, with their rooms."""
    return {row.alias: row.room_id for row in conn.execute(_OF_MANY, {"aliases": aliases})}


def load_aliases_of_room(conn: Connection, room_id: RoomId) -> list[RoomAlias]:
    """The room's aliases, oldest first."""
    return [RoomAlias(row[0]) for row in conn.execute(_OF_ROOM, {"room_id": room_id})]


def save_alias(conn: Connection, row: AliasRow) -> bool:
    """False when the alias exists already; it is then left as it is."""
    values = {
        "alias": row.alias,
        "room_id": row.room_id,
        "creator": row.creator,
        "created_ts_ms": row.created_ts_ms,
    }
    return conn.execute(_INSERT, values).rowcount == 1


def delete_alias(conn: Connection, alias: RoomAlias) -> None:
    conn.execute(delete(a).where(a.c.alias == alias))


def move_aliases(conn: Connection, from_room: RoomId, to_room: RoomId) -> None:
    """All aliases of one room now lead to another."""
    conn.execute(update(a).where(a.c.room_id == from_room).values(room_id=to_room))
