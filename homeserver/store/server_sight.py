"""What another server was to a room at given states: for judging what it may see of the history."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import orjson
from attrs import frozen
from sqlalchemy import Connection, and_, bindparam, or_, select

from homeserver.matrix.ids import RoomId, ServerName, UserId, domain_of
from homeserver.store.events import chunked
from homeserver.store.snapshots import load_state_nids
from homeserver.store.tables.rooms import events as e

_VISIBILITY = "m.room.history_visibility"
_MEMBER = "m.room.member"


@frozen
class ServerSight:
    """The history visibility event's content (None: there is none), and the memberships of the server's users."""

    visibility: dict[str, Any] | None
    memberships: dict[UserId, str]


_RELEVANT = select(e.c.nid, e.c.type, e.c.state_key, e.c.json).where(
    e.c.room_id == bindparam("room_id"),
    e.c.nid.in_(bindparam("nids", expanding=True)),
    or_(
        and_(e.c.type == _VISIBILITY, e.c.state_key == ""),
        and_(e.c.type == _MEMBER, e.c.state_key.like(bindparam("of_server"), escape="/")),
    ),
)


def load_server_sights(
    conn: Connection, room_id: RoomId, snapshot_ids: Collection[int], server: ServerName
) -> dict[int, ServerSight]:
    """The server's sight in each of the states.

    States close to each other share nearly all their events, so these are read once for all.
    """
    nids = {snapshot_id: load_state_nids(conn, room_id, snapshot_id) for snapshot_id in set(snapshot_ids)}
    named = _load_named(conn, room_id, {abs(nid) for of_one in nids.values() for nid in of_one}, server)
    return {snapshot_id: _sight(of_one, named) for snapshot_id, of_one in nids.items()}


def _load_named(
    conn: Connection, room_id: RoomId, nids: Collection[int], server: ServerName
) -> dict[int, tuple[str, str, dict[str, Any]]]:
    escaped = server.replace("/", "//").replace("%", "/%").replace("_", "/_")
    found = {}
    for chunk in chunked(nids):
        parameters = {"room_id": room_id, "nids": chunk, "of_server": f"%:{escaped}"}
        for nid, type_, state_key, json in conn.execute(_RELEVANT, parameters):
            if type_ == _VISIBILITY or domain_of(state_key) == server:
                found[nid] = (type_, state_key, orjson.loads(json)["content"])
    return found


def _sight(nids: list[int], named: dict[int, tuple[str, str, dict[str, Any]]]) -> ServerSight:
    visibility: dict[str, Any] | None = None
    memberships: dict[UserId, str] = {}
    for nid in nids:
        entry = named.get(abs(nid))
        if entry is None:
            continue
        type_, state_key, content = entry
        membership = content.get("membership")
        if type_ == _VISIBILITY:
            visibility = content if nid > 0 else None
        elif nid > 0 and isinstance(membership, str):
            memberships[UserId(state_key)] = membership
        else:
            memberships.pop(UserId(state_key), None)
    return ServerSight(visibility, memberships)
