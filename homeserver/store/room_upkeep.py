"""Rooms that no local user is in: found, and deleted.

A room goes in two steps. In one transaction it becomes unknown: nobody can read or write it from then on, and a row of
room_purges says that the rest must follow. Then its rows are deleted table by table, so many at a time, by whoever finds that
row; a crash in between loses nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import ColumnElement, Connection, Table, delete, select, tuple_

from homeserver.matrix.ids import RoomId, ServerName
from homeserver.store.search import take_out_room
from homeserver.store.tables import metadata
from homeserver.store.tables.rooms import memberships, room_aliases, rooms
from homeserver.store.tables.upkeep import empty_rooms, room_purges
from homeserver.store.upsert import insert_if_absent

PURGING: Final = "room_purging"
"""Log rows: the room (key) is unknown from here on."""
PURGED: Final = "room_purged"
"""Log rows: its last row is gone."""

# What users wrote down for themselves, and what moderators must be able to look up, outlives the room.
_KEPT: Final = frozenset({"account_data", "key_backup_sessions", "reports", "empty_rooms", "room_purges"})
_PRESENT: Final = ("join", "invite", "knock")


class StillInUse(Exception):
    """Local users are in the room, or asked to be."""


def _is_local(server: ServerName) -> ColumnElement[bool]:
    return memberships.c.user_id.endswith(f":{server}", autoescape=True)


# -- finding them ----------------------------------------------------------------------------------------------------


def note_empty_rooms(
    conn: Connection, server: ServerName, now_ms: int, after: RoomId | None, limit: int
) -> RoomId | None:
    """Look at the next rooms behind `after`: write down the empty ones, take out the others. The last one; None at the end."""
    found: Sequence[RoomId] = (
        conn.execute(
            select(rooms.c.room_id).where(rooms.c.room_id > (after or "")).order_by(rooms.c.room_id).limit(limit)
        )
        .scalars()
        .all()
    )
    if not found:
        return None
    here = select(memberships.c.room_id).where(
        memberships.c.room_id.in_(found), memberships.c.membership.in_(_PRESENT), _is_local(server)
    )
    occupied = set(conn.execute(here.distinct()).scalars())
    conn.execute(delete(empty_rooms).where(empty_rooms.c.room_id.in_(occupied)))
    empty = [{"room_id": room_id, "since_ms": now_ms} for room_id in found if room_id not in occupied]
    if empty:
        conn.execute(insert_if_absent(empty_rooms), empty)
    return found[-1]


def load_due_rooms(conn: Connection, before_ms: int, limit: int) -> list[RoomId]:
    """Rooms that have been empty since before then, the longest first."""
    statement = select(empty_rooms.c.room_id).where(empty_rooms.c.since_ms <= before_ms)
    return list(conn.execute(statement.order_by(empty_rooms.c.since_ms).limit(limit)).scalars())


# -- deleting them ---------------------------------------------------------------------------------------------------


def begin_purge(conn: Connection, room_id: RoomId, server: ServerName, now_ms: int, *, force: bool = False) -> None:
    """Make the room unknown. `force`: though local users are in it.

    Raises: StillInUse.
    """
    conn.execute(delete(rooms).where(rooms.c.room_id == room_id))
    local = select(memberships.c.user_id).where(memberships.c.room_id == room_id, _is_local(server))
    if not force and conn.execute(local.where(memberships.c.membership.in_(_PRESENT)).limit(1)).first() is not None:
        raise StillInUse(room_id)
    conn.execute(delete(memberships).where(memberships.c.room_id == room_id, _is_local(server)))
    for table in (room_aliases, empty_rooms):
        conn.execute(delete(table).where(table.c.room_id == room_id))
    conn.execute(insert_if_absent(room_purges), {"room_id": room_id, "began_ts_ms": now_ms})


def load_purges(conn: Connection) -> list[RoomId]:
    """Rooms whose rows are still to be deleted."""
    return list(conn.execute(select(room_purges.c.room_id).order_by(room_purges.c.began_ts_ms)).scalars())


def purge_rows(conn: Connection, room_id: RoomId, limit: int) -> bool:
    """Delete the room's next rows, at most `limit`; whether there may be more."""
    if conn.execute(select(room_purges).where(room_purges.c.room_id == room_id)).first() is None:
        return False
    if take_out_room(conn, room_id, limit):
        return True
    return any(_delete_some(conn, table, room_id, limit) for table in purged_tables())


def purged_tables() -> list[Table]:
    """All tables that say which room their rows are of, but for those that are kept."""
    return [table for table in metadata.sorted_tables if "room_id" in table.c and table.name not in _KEPT]


def _delete_some(conn: Connection, table: Table, room_id: RoomId, limit: int) -> bool:
    key = tuple(table.primary_key.columns)
    some = select(*key).where(table.c.room_id == room_id).limit(limit)
    return conn.execute(delete(table).where(tuple_(*key).in_(some))).rowcount > 0


def end_purge(conn: Connection, room_id: RoomId) -> None:
    conn.execute(delete(room_purges).where(room_purges.c.room_id == room_id))
