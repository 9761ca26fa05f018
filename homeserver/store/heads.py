"""Loading room heads: set-based, three statements for any number of rooms."""

from __future__ import annotations

from collections.abc import Collection

import orjson
from attrs import frozen
from sqlalchemy import Connection, bindparam, select

from homeserver.matrix.ids import EventId, RoomId, UserId
from homeserver.matrix.state_map import StateKey
from homeserver.matrix.versions import RoomVersion, room_version
from homeserver.runtime.statement import OneOf, Statement
from homeserver.store.events import StoredEvent, load_events
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


_ROOMS = Statement(
    select(
        rooms.c.room_id, rooms.c.version, rooms.c.head_version, rooms.c.extremities, rooms.c.depth, rooms.c.snapshot_id
    ).where(OneOf(rooms.c.room_id, "ids")),
    texts=["ids"],
)
_STATE = Statement(
    select(current_state.c.room_id, current_state.c.type, current_state.c.state_key, current_state.c.event_id).where(
        OneOf(current_state.c.room_id, "ids")
    ),
    texts=["ids"],
)
_MEMBERS = Statement(
    select(memberships.c.room_id, memberships.c.user_id, memberships.c.membership, memberships.c.event_id).where(
        OneOf(memberships.c.room_id, "ids")
    ),
    texts=["ids"],
)


def load_heads(
    conn: Connection, room_ids: Collection[RoomId], pinned_keys: Collection[StateKey]
) -> dict[RoomId, HeadRow]:
    """The heads of those of the rooms that there are."""
    wanted = {"ids": list(room_ids)}
    heads: dict[RoomId, HeadRow] = {}
    for room_id, version, number, extremities, depth, snapshot_id in _ROOMS.all(conn, wanted):
        heads[room_id] = HeadRow(
            room_id, room_version(version), number, tuple(orjson.loads(extremities)), depth, snapshot_id, {}, {}, {}
        )
    for room_id, type_, state_key, event_id in _STATE.all(conn, wanted):
        heads[room_id].state[(type_, state_key)] = event_id
    for room_id, user_id, membership, event_id in _MEMBERS.all(conn, wanted):
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
