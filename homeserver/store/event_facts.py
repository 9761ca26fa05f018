"""What is known of events by id, without reading them: for what others name in prev_events, auth_events and state."""

from __future__ import annotations

from collections.abc import Collection

from attrs import frozen
from sqlalchemy import Connection, bindparam, select

from homeserver.matrix.ids import EventId, RoomId
from homeserver.matrix.state_map import StateKey
from homeserver.store.events import chunked
from homeserver.store.tables.rooms import events as e


@frozen
class EventFacts:
    """key: None for what is no state event. has_state: whether the state before it is known (it is no outlier)."""

    key: StateKey | None
    rejected: bool
    has_state: bool


_FACTS = select(e.c.event_id, e.c.type, e.c.state_key, e.c.rejected, e.c.snapshot_before).where(
    e.c.room_id == bindparam("room_id"), e.c.event_id.in_(bindparam("ids", expanding=True))
)


def load_event_facts(conn: Connection, room_id: RoomId, ids: Collection[EventId]) -> dict[EventId, EventFacts]:
    """Of those of the events that are stored as events of the room."""
    return {
        event_id: EventFacts(
            None if state_key is None else (type_, state_key), rejected is not None, snapshot is not None
        )
        for chunk in chunked(ids)
        for event_id, type_, state_key, rejected, snapshot in conn.execute(_FACTS, {"room_id": room_id, "ids": chunk})
    }
