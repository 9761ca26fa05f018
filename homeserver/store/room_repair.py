"""What admins see of a room, and putting its current state right.

The current state stands in three places: the snapshots after the extremities, from which all else follows; the table of the
current state with the room's own snapshot; and the table of memberships. Here they are compared, and written anew.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

import orjson
from attrs import field, frozen
from sqlalchemy import Connection, Select, and_, case, delete, exists, func, select

from homeserver.matrix.ids import EventId, RoomId, ServerName, UserId
from homeserver.matrix.state_map import StateKey
from homeserver.store.event_gaps import load_gaps
from homeserver.store.events import chunked
from homeserver.store.log import MembershipChange
from homeserver.store.partial_rooms import load_partial_servers
from homeserver.store.snapshots import Snapshot
from homeserver.store.tables.federated_rooms import outside_rooms
from homeserver.store.tables.receiving import staged_pdus
from homeserver.store.tables.rooms import current_state, events, memberships, rooms
from homeserver.store.tables.upkeep import empty_rooms

REPAIRED: Final = "room_repaired"
"""Log rows: the room (key) was put right; whoever holds something of it reads it anew."""

_MEMBER: Final = "m.room.member"


@frozen
class RoomLine:
    """A room in a list. joined: users; local: those of this server among them."""

    room_id: RoomId
    version: str
    joined: int
    local: int
    events: int
    extremities: int


@frozen
class RoomFacts:
    """Figures of one room. memberships: how many users have each."""

    version: str
    creator: UserId
    is_public: bool
    head_version: int
    depth: int
    extremities: tuple[EventId, ...]
    memberships: Mapping[str, int]
    state_size: int
    events: int
    rejected: int
    soft_failed: int
    outliers: int
    gaps: int
    staged: int
    empty_since_ms: int | None
    waits_for_members_of: Sequence[ServerName] = field(factory=tuple)


def load_room_lines(conn: Connection, server: ServerName, limit: int, *, only_empty: bool = False) -> list[RoomLine]:
    """The rooms with most events first."""
    counts = select(events.c.room_id, func.count().label("events")).group_by(events.c.room_id).subquery()
    joined = memberships.c.membership == "join"
    is_local = memberships.c.user_id.endswith(f":{server}", autoescape=True)
    local = (
        select(func.count())
        .where(memberships.c.room_id == rooms.c.room_id, joined, is_local)
        .scalar_subquery()
        .label("local")
    )
    statement = (
        select(rooms.c.room_id, rooms.c.version, rooms.c.joined_members, local, counts.c.events, rooms.c.extremities)
        .join(counts, counts.c.room_id == rooms.c.room_id)
        .order_by(counts.c.events.desc(), rooms.c.room_id)
        .limit(limit)
    )
    if only_empty:
        statement = statement.where(rooms.c.room_id.in_(select(empty_rooms.c.room_id)))
    return [RoomLine(*row[:5], len(orjson.loads(row[5]))) for row in conn.execute(statement)]


def load_room_facts(conn: Connection, room_id: RoomId) -> RoomFacts | None:
    """None: no such room."""
    r = rooms.c
    row = conn.execute(
        select(r.version, r.creator, r.is_public, r.head_version, r.depth, r.extremities).where(r.room_id == room_id)
    ).first()
    if row is None:
        return None
    e = events.c
    members = select(memberships.c.membership, func.count()).where(memberships.c.room_id == room_id)
    stored = conn.execute(
        select(
            func.count(),
            func.count(e.rejected),
            func.coalesce(func.sum(case((e.soft_failed, 1), else_=0)), 0),
            func.coalesce(func.sum(case((e.snapshot_before.is_(None), 1), else_=0)), 0),
        ).where(e.room_id == room_id)
    ).one()
    return RoomFacts(
        row[0],
        UserId(row[1]),
        bool(row[2]),
        row[3],
        row[4],
        tuple(orjson.loads(row[5])),
        {each[0]: each[1] for each in conn.execute(members.group_by(memberships.c.membership))},
        _count(conn, select(func.count()).select_from(current_state).where(current_state.c.room_id == room_id)),
        int(stored[0]),
        int(stored[1]),
        int(stored[2]),
        int(stored[3]),
        len(load_gaps(conn, room_id)),
        _count(conn, select(func.count()).select_from(staged_pdus).where(staged_pdus.c.room_id == room_id)),
        conn.execute(select(empty_rooms.c.since_ms).where(empty_rooms.c.room_id == room_id)).scalar(),
        load_partial_servers(conn, [room_id]).get(room_id, ()),
    )


def _count(conn: Connection, statement: Select[int]) -> int:
    number: int = conn.execute(statement).scalar_one()
    return number


@frozen
class StoredState:
    """The current state as the tables have it; `members`: user -> (membership, event id)."""

    head_version: int
    snapshot_id: int
    extremities: tuple[EventId, ...]
    state: Mapping[StateKey, EventId]
    members: Mapping[UserId, tuple[str, EventId]]


def load_stored_state(conn: Connection, room_id: RoomId) -> StoredState | None:
    """None: no such room. Invites and knocks from outside, which stand in no state, are left out."""
    r, s, m, o = rooms.c, current_state.c, memberships.c, outside_rooms.c
    head = select(r.head_version, r.snapshot_id, r.extremities).where(r.room_id == room_id)
    row = conn.execute(head).first()
    if row is None:
        return None
    state = conn.execute(select(s.type, s.state_key, s.event_id).where(s.room_id == room_id))
    is_outside = and_(o.user_id == m.user_id, o.room_id == m.room_id, o.event_id == m.event_id)
    members = conn.execute(
        select(m.user_id, m.membership, m.event_id).where(m.room_id == room_id, ~exists().where(is_outside))
    )
    return StoredState(
        row[0],
        row[1],
        tuple(orjson.loads(row[2])),
        {(each[0], each[1]): each[2] for each in state},
        {each[0]: (each[1], each[2]) for each in members},
    )


def load_newest_event(conn: Connection, room_id: RoomId) -> EventId | None:
    """The last event of the timeline that counts."""
    e = events.c
    found: EventId | None = conn.execute(
        select(e.event_id)
        .where(e.room_id == room_id, e.timeline_order > 0, e.rejected.is_(None), e.soft_failed.is_(False))
        .order_by(e.timeline_order.desc())
        .limit(1)
    ).scalar()
    return found


@frozen
class Repair:
    """The current state as it must be. `members` has every user with a member event in it."""

    extremities: tuple[EventId, ...]
    snapshot: Snapshot
    state: Mapping[StateKey, EventId]
    members: Mapping[UserId, MembershipChange]


def delete_stray_memberships(conn: Connection, room_id: RoomId, user_ids: Collection[UserId]) -> None:
    """Of users who have no member event in the room's state."""
    m = memberships.c
    for chunk in chunked(user_ids):
        conn.execute(delete(memberships).where(m.room_id == room_id, m.user_id.in_(chunk)))
