"""Loading room heads: set-based, three statements for any number of rooms."""

from __future__ import annotations

from collections.abc import Collection

import orjson
from attrs import frozen
from sqlalchemy import Connection, bindparam, select

from homeserver.matrix.ids import EventId, RoomId, UserId
from homeserver.matrix.state_map import StateKey
from homeserver.matrix.versions import RoomVersion, room_version
from homeserver.store.events import StoredEvent, chunked, load_events
from homeserver.store.tables.rooms import current_state, memberships, rooms


@frozen
class HeadRow:
    """A room's head as it is stored: everything but the events themselves, which `pinned` has for the asked keys."""

    room_id: RoomId
    version: RoomVersion
    number: int
    extremities: tuple[EventId, ...]
    depth: int
    snapshot_id: int
    state: dict[StateKey, EventId]
    members: dict[UserId, str]
    pinned: dict[StateKey, StoredEvent]


_ROOMS = select(
    rooms.c.room_id, rooms.c.version, rooms.c.head_version, rooms.c.extremities, rooms.c.depth, rooms.c.snapshot_id
).where(rooms.c.room_id.in_(bindparam("ids", expanding=True)))
_STATE = select(
    current_state.c.room_id, current_state.c.type, current_state.c.state_key, current_state.c.event_id
).where(current_state.c.room_id.in_(bindparam("ids", expanding=True)))
_MEMBERS = select(memberships.c.room_id, memberships.c.user_id, memberships.c.membership, memberships.c.event_id).where(
    memberships.c.room_id.in_(bindparam("ids", expanding=True))
)


def load_heads(
    conn: Connection, room_ids: Collection[RoomId], pinned_keys: Collection[StateKey]
) -> dict[RoomId, HeadRow]:
    """The heads of those of the rooms that there are."""
    heads: dict[RoomId, HeadRow] = {}
    for chunk in chunked(room_ids):
        for row in conn.execute(_ROOMS, {"ids": chunk}):
            heads[row[0]] = HeadRow(
                row[0], room_version(row[1]), row[2], tuple(orjson.loads(row[3])), row[4], row[5], {}, {}, {}
            )
        for room_id, type_, state_key, event_id in conn.execute(_STATE, {"ids": chunk}):
            heads[room_id].state[(type_, state_key)] = event_id
        for room_id, user_id, membership, event_id in conn.execute(_MEMBERS, {"ids": chunk}):
            # An invite to a room that this server is not in, or not any more, is not of the state that is known.
            if room_id in heads and heads[room_id].state.get(("m.room.member", user_id)) == event_id:
                heads[room_id].members[user_id] = membership
    _load_pinned(conn, heads, pinned_keys)
    return heads


def _load_pinned(conn: Connection, heads: dict[RoomId, HeadRow], keys: Collection[StateKey]) -> None:
    wanted = {head.state[key] for head in heads.values() for key in keys if key in head.state}
    versions = {head.room_id: head.version for head in heads.values()}
    for event in load_events(conn, wanted, versions):
        heads[event.pdu.room_id].pinned[event.pdu.key] = event


_VERSION_OF = select(rooms.c.version).where(rooms.c.room_id == bindparam("room_id"))


def load_room_version(conn: Connection, room_id: RoomId) -> RoomVersion | None:
    found = conn.execute(_VERSION_OF, {"room_id": room_id}).scalar()
    return room_version(found) if found is not None else None
