"""What is known of a room's event graph: which events, their edges, their auth chains, the state around them.

Edges are read off the events themselves. A table of them would cost more than the events' own index entries for
each membership change, and would only be asked for by servers that catch up.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import orjson
from attrs import frozen
from sqlalchemy import Connection, bindparam, select

from homeserver.matrix.ids import EventId, RoomId
from homeserver.matrix.state_map import StateKey
from homeserver.matrix.versions import RoomVersion
from homeserver.store.events import StoredEvent, chunked, load_events
from homeserver.store.snapshots import load_state
from homeserver.store.tables.rooms import events as e


@frozen
class EventFacts:
    """What is known of an event without reading it. key: None for what is no state event. has_state: whether the state
    before it is known (it is no outlier)."""

    key: StateKey | None
    rejected: bool
    has_state: bool


_IDS: Any = bindparam("ids", expanding=True)
_FACTS = select(e.c.event_id, e.c.type, e.c.state_key, e.c.rejected, e.c.snapshot_before).where(
    e.c.room_id == bindparam("room_id"), e.c.event_id.in_(_IDS)
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


def _ids(references: Sequence[EventId | list[EventId]]) -> tuple[EventId, ...]:
    """References as ids; room versions 1 and 2 have hashes with them."""
    return tuple(ref if isinstance(ref, str) else ref[0] for ref in references)


_AUTH = select(e.c.event_id, e.c.json).where(e.c.event_id.in_(_IDS), e.c.room_id == bindparam("room_id"))


def load_auth_edges(
    conn: Connection, room_id: RoomId, event_ids: Collection[EventId]
) -> dict[EventId, tuple[EventId, ...]]:
    """auth_events of those of the events that are stored."""
    return {
        row[0]: _ids(orjson.loads(row[1])["auth_events"])
        for chunk in chunked(event_ids)
        for row in conn.execute(_AUTH, {"ids": chunk, "room_id": room_id})
    }


def load_auth_chain(conn: Connection, room_id: RoomId, event_ids: Collection[EventId]) -> set[EventId]:
    """The events' auth events, and theirs, as far as they are stored; one statement for each level of the graph.

    Of the events themselves it has those that another one leads to.
    """
    found: set[EventId] = set()
    seen: set[EventId] = set(event_ids)
    frontier: set[EventId] = set(event_ids)
    named: set[EventId] = set()
    while frontier:
        edges = load_auth_edges(conn, room_id, frontier)
        found |= frontier & edges.keys()
        parents = {auth_id for auth_ids in edges.values() for auth_id in auth_ids}
        named |= parents
        frontier = parents - seen
        seen |= frontier
    return found & named


def load_state_before(conn: Connection, event: StoredEvent) -> dict[StateKey, EventId] | None:
    """The state before a stored event; None for an outlier."""
    if event.snapshot_before is None:
        return None
    return load_state(conn, event.pdu.room_id, event.snapshot_before)


def load_state_after(conn: Connection, event: StoredEvent) -> dict[StateKey, EventId] | None:
    """The state after a stored event; None for an outlier."""
    snapshot_id = event.snapshot_after
    return load_state(conn, event.pdu.room_id, snapshot_id) if snapshot_id is not None else None


def load_before(
    conn: Connection,
    room_id: RoomId,
    version: RoomVersion,
    starts: Collection[EventId],
    limit: int,
    *,
    stop_at: Collection[EventId] = (),
    with_starts: bool = False,
    min_depth: int = 0,
) -> list[StoredEvent]:
    """A walk back over prev events from `starts`, breadth first, at most `limit` events, nearest first.

    Not beyond the events in `stop_at` (which are left out), outliers, or what is less deep than min_depth. For /backfill
    (with_starts) and /get_missing_events. Rejected events are walked over and left out.

    Spec: server-server-api#post_matrixfederationv1get_missing_eventsroomid
    """
    seen = set(starts) | set(stop_at)
    found: list[StoredEvent] = []
    frontier: list[EventId] = [event_id for event_id in starts if event_id not in stop_at]
    is_start = True
    while frontier and len(found) < limit:
        level = {event.event_id: event for event in load_events(conn, frontier, {room_id: version})}
        events = [event for event_id in frontier if (event := level.get(event_id)) is not None]
        frontier = []
        for event in events:
            if not is_start and (event.is_outlier or event.pdu.depth < min_depth):
                continue
            if event.rejected is None and (with_starts or not is_start):
                found.append(event)
            for prev_id in event.pdu.prev_events:
                if prev_id not in seen:
                    seen.add(prev_id)
                    frontier.append(prev_id)
        is_start = False
    return found[:limit]


_EARLIEST = (
    select(e.c.timeline_order)
    .where(e.c.room_id == bindparam("room_id"), e.c.timeline_order.is_not(None))
    .order_by(e.c.timeline_order.asc())
    .limit(1)
)
_EARLIER = (
    select(e.c.timeline_order)
    .where(e.c.room_id == bindparam("room_id"), e.c.timeline_order < bindparam("order"))
    .order_by(e.c.timeline_order.desc())
    .limit(1)
)


def load_earliest_order(conn: Connection, room_id: RoomId) -> int:
    """The place of the room's first event that is known; 0 where none is."""
    return conn.execute(_EARLIEST, {"room_id": room_id}).scalar() or 0


def load_order_before(conn: Connection, room_id: RoomId, order: int) -> int | None:
    """The place of the event before a place in the timeline; None at its beginning."""
    return conn.execute(_EARLIER, {"room_id": room_id, "order": order}).scalar()
