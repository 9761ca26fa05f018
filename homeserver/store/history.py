"""What a user was to a room, and what its history visibility was, over time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
from attrs import frozen
from sqlalchemy import Connection, and_, bindparam, select, tuple_

from homeserver.matrix.ids import RoomId
from homeserver.store.events import chunked
from homeserver.store.tables.rooms import events as e
from homeserver.store.tables.rooms import state_deltas as d


@frozen
class StateMoment:
    """At `position` the key's content became this (None: the key was removed)."""

    room_id: RoomId
    type: str
    state_key: str
    position: int
    content: dict[str, Any] | None


_JOINED = d.outerjoin(e, and_(e.c.event_id == d.c.event_id, e.c.room_id == d.c.room_id))


def load_moments(conn: Connection, keys: Sequence[tuple[RoomId, str, str]]) -> list[StateMoment]:
    """Every change of the given (room, type, state_key), oldest first."""
    statement = (
        select(d.c.room_id, d.c.type, d.c.state_key, d.c.position, e.c.json)
        .select_from(_JOINED)
        .where(tuple_(d.c.room_id, d.c.type, d.c.state_key).in_(bindparam("keys", expanding=True)))
        .order_by(d.c.position)
    )
    return [
        StateMoment(row[0], row[1], row[2], row[3], _content(row[4]))
        for chunk in chunked(keys, 300)
        for row in conn.execute(statement, {"keys": chunk})
    ]


def _content(pdu_json: bytes | None) -> dict[str, Any] | None:
    if pdu_json is None:
        return None
    content: dict[str, Any] = orjson.loads(pdu_json)["content"]
    return content
