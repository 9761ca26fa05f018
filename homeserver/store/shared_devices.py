"""Whose devices matter to whom, read from the database: for clients that were away for longer than memory reaches."""

from __future__ import annotations

from attrs import frozen
from sqlalchemy import ColumnElement, Connection, Table, select

from homeserver.matrix.ids import UserId
from homeserver.store.cross_signing import load_signed_users
from homeserver.store.device_lists import load_changed_users
from homeserver.store.events import chunked
from homeserver.store.log import load_head_position
from homeserver.store.tables.rooms import current_state
from homeserver.store.tables.rooms import memberships as m
from homeserver.store.tables.rooms import state_deltas as d

_GONE = ("leave", "ban")


@frozen
class ListChanges:
    """changed: whose devices are to be asked for again; left: whose no longer matter; true up to `position`."""

    changed: frozenset[UserId]
    left: frozenset[UserId]
    position: int


def load_list_changes(conn: Connection, user_id: UserId, after: int) -> ListChanges:
    """What happened behind `after`.

    Spec: client-server-api#tracking-the-device-list-for-a-user
    """
    position = load_head_position(conn)
    own = conn.execute(select(m.c.room_id, m.c.membership, m.c.position).where(m.c.user_id == user_id)).all()
    joined = {row.room_id for row in own if row.membership == "join"}
    fresh = {row.room_id for row in own if row.membership == "join" and row.position > after}
    parted = {row.room_id for row in own if row.membership in _GONE and row.position > after}
    changed = _sharing(conn, joined, load_changed_users(conn, after, position))
    encrypted = _encrypted(conn, joined)
    changed |= _newly_met(conn, encrypted, fresh | _newly_encrypted(conn, encrypted, after), after) - {user_id}
    changed |= load_signed_users(conn, user_id, after, position)
    if user_id in load_changed_users(conn, after, position):
        changed.add(user_id)
    gone = _gone(conn, joined, after) | _members(conn, parted)
    left = gone - _sharing(conn, joined, gone)
    return ListChanges(frozenset(changed - left), frozenset(left - {user_id}), position)


def _sharing(conn: Connection, rooms: set[str], users: set[UserId]) -> set[UserId]:
    """Those of the users who are joined to one of the rooms."""
    found: set[UserId] = set()
    for chunk in chunked(users):
        rows = conn.execute(select(m.c.user_id, m.c.room_id).where(m.c.user_id.in_(chunk), m.c.membership == "join"))
        found.update(row.user_id for row in rows if row.room_id in rooms)
    return found


def _encrypted(conn: Connection, rooms: set[str]) -> set[str]:
    return _with_encryption(conn, rooms, current_state)


def _newly_encrypted(conn: Connection, rooms: set[str], after: int) -> set[str]:
    """Those of the rooms whose encryption began behind `after`."""
    return _with_encryption(conn, rooms, d, d.c.position > after, d.c.prev_event_id.is_(None))


def _with_encryption(conn: Connection, rooms: set[str], table: Table, *where: ColumnElement[bool]) -> set[str]:
    """Those of which the table has m.room.encryption."""
    wanted = select(table.c.room_id).where(table.c.type == "m.room.encryption", table.c.state_key == "", *where)
    found: set[str] = set()
    for chunk in chunked(rooms):
        found.update(conn.scalars(wanted.where(table.c.room_id.in_(chunk))))
    return found


def _newly_met(conn: Connection, rooms: set[str], fresh: set[str], after: int) -> set[UserId]:
    """Who joined the rooms behind `after`; of rooms that the user joined since, or that are encrypted since, everybody."""
    found: set[UserId] = set()
    for chunk in chunked(rooms):
        rows = conn.execute(
            select(m.c.user_id, m.c.room_id, m.c.position).where(m.c.room_id.in_(chunk), m.c.membership == "join")
        )
        found.update(row.user_id for row in rows if row.position > after or row.room_id in fresh)
    return found


def _gone(conn: Connection, rooms: set[str], after: int) -> set[UserId]:
    found: set[UserId] = set()
    for chunk in chunked(rooms):
        found.update(
            conn.scalars(
                select(m.c.user_id).where(m.c.room_id.in_(chunk), m.c.membership.in_(_GONE), m.c.position > after)
            )
        )
    return found


def _members(conn: Connection, rooms: set[str]) -> set[UserId]:
    found: set[UserId] = set()
    for chunk in chunked(rooms):
        found.update(conn.scalars(select(m.c.user_id).where(m.c.room_id.in_(chunk), m.c.membership == "join")))
    return found
