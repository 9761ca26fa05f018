"""Whose devices matter to whom, read from the database: for clients that were away for longer than memory reaches."""

from __future__ import annotations

from attrs import frozen
from sqlalchemy import Connection, select

from homeserver.matrix.ids import RoomId, UserId
from homeserver.store.cross_signing import load_signed_users
from homeserver.store.device_lists import load_changed_users
from homeserver.store.events import chunked
from homeserver.store.history import load_moments
from homeserver.store.log import load_head_position
from homeserver.store.tables.rooms import memberships as m
from homeserver.store.tables.rooms import state_deltas as d

_GONE = ("leave", "ban")
_COUNTED = ("join", "invite")


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
    moved = {row.room_id for row in own if row.membership == "join" and row.position > after}
    fresh = moved - _joined_before(conn, user_id, moved, after)
    parted = {row.room_id for row in own if row.membership in _GONE and row.position > after}
    changed = _sharing(conn, joined, load_changed_users(conn, after, position))
    met = _newly_met(conn, joined, fresh | _newly_encrypted(conn, joined, after), after)
    if not fresh or met == {user_id}:
        met.discard(user_id)
    changed |= met
    changed |= load_signed_users(conn, user_id, after, position)
    if user_id in load_changed_users(conn, after, position):
        changed.add(user_id)
    gone = _gone(conn, joined, after) | _members(conn, parted)
    left = gone - _sharing(conn, joined, gone)
    return ListChanges(frozenset(changed - left), frozenset(left - {user_id}), position)


def _sharing(conn: Connection, rooms: set[str], users: set[UserId]) -> set[UserId]:
    """Those of the users who are joined, or invited, to one of the rooms."""
    found: set[UserId] = set()
    counted = select(m.c.user_id, m.c.room_id).where(m.c.membership.in_(_COUNTED))
    for chunk in chunked(users):
        rows = conn.execute(counted.where(m.c.user_id.in_(chunk)))
        found.update(row.user_id for row in rows if row.room_id in rooms)
    return found


def _newly_encrypted(conn: Connection, rooms: set[str], after: int) -> set[str]:
    """Those of the rooms whose encryption began behind `after`."""
    began = select(d.c.room_id).where(
        d.c.type == "m.room.encryption", d.c.state_key == "", d.c.position > after, d.c.prev_event_id.is_(None)
    )
    found: set[str] = set()
    for chunk in chunked(rooms):
        found.update(conn.scalars(began.where(d.c.room_id.in_(chunk))))
    return found


def _joined_before(conn: Connection, user_id: UserId, rooms: set[str], after: int) -> set[str]:
    """Those of the rooms that the user was in at `after`: a changed name is no new membership."""
    keys = [(RoomId(room_id), "m.room.member", str(user_id)) for room_id in rooms]
    latest = {moment.room_id: moment.content for moment in load_moments(conn, keys) if moment.position <= after}
    return {
        room_id for room_id, content in latest.items() if content is not None and content.get("membership") == "join"
    }


def _newly_met(conn: Connection, rooms: set[str], fresh: set[str], after: int) -> set[UserId]:
    """Who joined the rooms, or was invited, behind `after`; of those that are fresh, everybody."""
    found: set[UserId] = set()
    counted = select(m.c.user_id, m.c.room_id, m.c.position).where(m.c.membership.in_(_COUNTED))
    for chunk in chunked(rooms):
        rows = conn.execute(counted.where(m.c.room_id.in_(chunk)))
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
        found.update(conn.scalars(select(m.c.user_id).where(m.c.room_id.in_(chunk), m.c.membership.in_(_COUNTED))))
    return found
