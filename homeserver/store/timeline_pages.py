"""A page of a room's timeline with all that telling it takes, in one read."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from attrs import frozen
from sqlalchemy import Connection

from homeserver.matrix.ids import EventId, RoomId, UserId
from homeserver.matrix.versions import RoomVersion
from homeserver.store.events import Peek, StoredEvent, load_timeline
from homeserver.store.history_gaps import HistoryGap, load_gap
from homeserver.store.relations import Bundle, load_bundles


@frozen
class TimelinePage:
    """gap: the newest place before which history is missing, at the events or just behind where they begin; None where they
    were read forwards."""

    events: Sequence[StoredEvent]
    gap: HistoryGap | None
    bundles: Mapping[EventId, Bundle]


def load_timeline_page(
    conn: Connection,
    room_id: RoomId,
    version: RoomVersion,
    after: int,
    upto: int,
    limit: int,
    backwards: bool,
    reader: UserId,
    ignored: Collection[str],
    peek: Peek,
) -> TimelinePage:
    """See load_timeline, load_gap and load_bundles."""
    gap = load_gap(conn, room_id, after, upto) if backwards else None
    events = load_timeline(conn, room_id, version, after, upto, limit, backwards, peek)
    wanted = [(room_id, event.event_id) for event in events]
    return TimelinePage(events, gap, load_bundles(conn, wanted, reader, ignored) if wanted else {})
