"""What another server was to a room at given states: for judging what it may see of the history."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cached_property
from typing import Any, Final

import orjson
from attrs import frozen
from sqlalchemy import Connection, and_, bindparam, or_, select

from homeserver.matrix.ids import RoomId, ServerName, UserId, domain_of
from homeserver.store.events import chunked
from homeserver.store.snapshots import Step, load_steps
from homeserver.store.tables.rooms import events as e

_VISIBILITY = "m.room.history_visibility"
_MEMBER = "m.room.member"
# A server is to a room what the closest of its users is.
_CLOSEST: Final = ("join", "invite", "knock", "leave", "ban")


@frozen
class ServerSight:
    """The history visibility event's content (None: there is none), and the memberships of the server's users."""

    visibility: dict[str, Any] | None
    memberships: Mapping[UserId, str]

    @cached_property
    def closest(self) -> str | None:
        """What the closest of its users is to the room; None where nobody is anything."""
        held = set(self.memberships.values())
        return next((membership for membership in _CLOSEST if membership in held), None)


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
    """The server's sight in each of the states. Costs what the states have in all, not each of them."""
    steps = load_steps(conn, room_id, snapshot_ids)
    nids = {abs(nid) for step in steps.values() for nid in step.nids}
    named = _load_named(conn, room_id, nids, server)
    own = {snapshot_id: [nid for nid in step.nids if abs(nid) in named] for snapshot_id, step in steps.items()}
    return {snapshot_id: _sight(_changes(snapshot_id, steps, own), named) for snapshot_id in set(snapshot_ids)}


def _changes(snapshot_id: int, steps: Mapping[int, Step], own: Mapping[int, list[int]]) -> list[int]:
    """What of the `own` changes make up a state, oldest first."""
    parts = []
    step_id: int | None = snapshot_id
    while step_id and step_id in steps:
        parts.append(own[step_id])
        step_id = steps[step_id].base_id
    return [nid for part in reversed(parts) for nid in part]


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
        type_, state_key, content = named[abs(nid)]
        membership = content.get("membership")
        if type_ == _VISIBILITY:
            visibility = content if nid > 0 else None
        elif nid > 0 and isinstance(membership, str):
            memberships[UserId(state_key)] = membership
        else:
            memberships.pop(UserId(state_key), None)
    return ServerSight(visibility, memberships)
