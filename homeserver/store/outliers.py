"""Outliers: events that are known, but not the state before them, so that they are in no timeline.

A room of ten thousand members brings as many of them when it is joined. A batch shares one row of the log, so an outlier
has no position of its own: its nid is made of the batch's position and its place in the batch, above all positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Connection

from homeserver.matrix.ids import RoomId
from homeserver.store.events import StoredEvent
from homeserver.store.log_writer import LogItem
from homeserver.store.relations import save_relations
from homeserver.store.room_writes import NewEvent, add_unsaved, save_events, save_redactions
from homeserver.store.snapshots import Snapshot, save_snapshots
from homeserver.store.sticky import save_sticky

# Positions stay below 2^45, and twice the largest nid (snapshot ids) below 2^63.
_ABOVE_POSITIONS = 1 << 61
_BATCH_BITS = 16
MAX_BATCH = 1000

# Log rows of what happened to stored events and is no news to clients. Key: the room. "outliers": a batch was stored;
# "hidden": events were judged (rejected, soft failed), or found their place in the past; data {"event_ids"}, and
# "sticky_until_ms" where one was soft failed that is sticky so long.
OUTLIERS = "outliers"
HIDDEN = "hidden"

Save = Callable[[Connection, int], None]


def outliers_item(room_id: RoomId, events: Sequence[StoredEvent]) -> LogItem:
    """What stores events of a room as outliers; at most MAX_BATCH, none of them stored yet."""
    assert len(events) <= MAX_BATCH

    def save(conn: Connection, position: int) -> None:
        for index, event in enumerate(events):
            event.nid = _ABOVE_POSITIONS | position << _BATCH_BITS | index
            event.timeline_order = None
        save_events(conn, [NewEvent(event, None, None) for event in events])

    return LogItem(OUTLIERS, room_id, {"count": len(events)}, save)


def hidden_item(room_id: RoomId, new: NewEvent, save_more: Save | None = None) -> LogItem:
    """What stores a rejected or soft-failed event with the state before it. The room's head is as before."""

    def save(conn: Connection, position: int) -> None:
        if not new.was_outlier:
            new.event.nid = position
        new.event.timeline_order = None
        unsaved: dict[Snapshot, int] = {}
        add_unsaved(unsaved, new)
        save_snapshots(conn, list(unsaved.items()))
        save_events(conn, [new])
        save_sticky(conn, [new.event])
        if save_more is not None:
            save_more(conn, position)

    return LogItem(HIDDEN, room_id, _hidden_data([new.event], [new.event] if new.event.soft_failed else []), save)


def history_item(room_id: RoomId, news: Sequence[NewEvent], save_more: Save | None = None) -> LogItem:
    """What stores events of the past, outliers until now, at the places in the timeline that they have been given.

    Those that are soft failed wait for a place at its end.
    """
    waiting = [new.event for new in news if new.event.soft_failed]

    def save(conn: Connection, position: int) -> None:
        unsaved: dict[Snapshot, int] = {}
        for new in news:
            add_unsaved(unsaved, new)
        save_snapshots(conn, list(unsaved.items()))
        save_events(conn, news)
        save_sticky(conn, waiting)
        save_relations(conn, [new.event for new in news if new.event.timeline_order is not None])
        save_redactions(conn, [new for new in news if new.redacts is not None])
        if save_more is not None:
            save_more(conn, position)

    return LogItem(HIDDEN, room_id, _hidden_data([new.event for new in news], waiting), save)


def _hidden_data(events: Sequence[StoredEvent], waiting: Sequence[StoredEvent]) -> dict[str, Any]:
    data: dict[str, Any] = {"event_ids": [event.event_id for event in events]}
    until_ms = max((event.sticky_until_ms or 0 for event in waiting), default=0)
    return {**data, "sticky_until_ms": until_ms} if until_ms else data
