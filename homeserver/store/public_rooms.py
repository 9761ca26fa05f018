"""Published rooms: which they are, and the state that the directory shows of them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from attrs import frozen
from sqlalchemy import Connection, and_, bindparam, select, update

from homeserver.matrix.canonical import decode_json
from homeserver.matrix.ids import RoomId
from homeserver.matrix.redaction import redact
from homeserver.matrix.versions import room_version
from homeserver.store.events import chunked
from homeserver.store.tables.rooms import current_state as s
from homeserver.store.tables.rooms import events as e
from homeserver.store.tables.rooms import rooms as r


@frozen
class PublicRoomRow:
    """contents: event type -> content, of the asked state events (with an empty state key) that the room has."""

    room_id: RoomId
    joined: int
    contents: dict[str, dict[str, Any]]


_PUBLIC = select(r.c.room_id, r.c.version, r.c.joined_members).where(r.c.is_public)
_PUBLIC_AMONG = _PUBLIC.where(r.c.room_id.in_(bindparam("ids", expanding=True)))
_STATE = (
    select(e.c.room_id, e.c.type, e.c.json, e.c.redacted_by)
    .select_from(s)
    .join(e, and_(e.c.room_id == s.c.room_id, e.c.event_id == s.c.event_id))
    .where(
        s.c.room_id.in_(bindparam("ids", expanding=True)),
        s.c.type.in_(bindparam("types", expanding=True)),
        s.c.state_key == "",
    )
)


def load_public_among(conn: Connection, room_ids: Collection[RoomId]) -> set[RoomId]:
    """Those of the rooms that are published."""
    return {row[0] for chunk in chunked(room_ids) for row in conn.execute(_PUBLIC_AMONG, {"ids": chunk})}


def load_public_rooms(
    conn: Connection, types: Collection[str], among: Collection[RoomId] | None = None
) -> dict[RoomId, PublicRoomRow]:
    """The published rooms (all, or those among some), with their state of these types."""
    found: dict[RoomId, PublicRoomRow] = {}
    versions = {}
    if among is None:
        rows = list(conn.execute(_PUBLIC))
    else:
        rows = [row for chunk in chunked(among) for row in conn.execute(_PUBLIC_AMONG, {"ids": chunk})]
    for room_id, version, joined in rows:
        versions[room_id] = room_version(version)
        found[room_id] = PublicRoomRow(room_id, joined, {})
    for chunk in chunked(found):
        for room_id, type_, encoded, redacted_by in conn.execute(_STATE, {"ids": chunk, "types": list(types)}):
            event = decode_json(encoded)
            if redacted_by is not None:
                event = redact(event, versions[room_id])
            found[room_id].contents[type_] = event["content"]
    return found


_IS_PUBLIC = select(r.c.is_public).where(r.c.room_id == bindparam("room_id"))


def load_is_public(conn: Connection, room_id: RoomId) -> bool | None:
    """Whether the room is published; None when it is not known."""
    found = conn.execute(_IS_PUBLIC, {"room_id": room_id}).scalar()
    return None if found is None else bool(found)


def save_is_public(conn: Connection, room_id: RoomId, is_public: bool) -> None:
    conn.execute(update(r).where(r.c.room_id == room_id).values(is_public=is_public))
