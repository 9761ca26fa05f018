"""The ends of timelines: what a first sync shows of each room, kept in memory for rooms that are asked for.

A tail holds the newest events with the changes of the current state that came with them, so that the state
before any of them is the room's current state with those changes undone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from attrs import frozen
from sqlalchemy import Connection

from homeserver.folds.fold import Fold
from homeserver.matrix.ids import EventId, RoomId
from homeserver.runtime.db import Database
from homeserver.store.log import LogRow
from homeserver.store.sync import TAIL_EVENTS, load_tails

_MAX_ROWS = 2 * TAIL_EVENTS
MAX_ROOMS = 1000


@frozen
class RoomTail:
    """All of the room's timeline events and state changes behind `floor`, oldest first."""

    floor: int
    rows: tuple[LogRow, ...]


class RoomTails:
    """Fold: room -> the end of its timeline."""

    def __init__(self, database: Database, max_rooms: int = MAX_ROOMS) -> None:
        self._fold: Fold[RoomId, RoomTail] = Fold(
            database, load=_load, keys_of=_rooms_of, apply=_apply, max_entries=max_rooms
        )
        self.on_rows = self._fold.on_rows
        self.get = self._fold.get
        self.load_many = self._fold.load_many

    def drop_room(self, room_id: RoomId) -> None:
        """Its timeline is stored no more."""
        self._fold.drop_where(lambda key: key == room_id)


def _load(conn: Connection, room_ids: Sequence[RoomId]) -> dict[RoomId, RoomTail]:
    return {room_id: RoomTail(floor, tuple(rows)) for room_id, (floor, rows) in load_tails(conn, room_ids).items()}


def _rooms_of(row: LogRow) -> Iterable[RoomId]:
    return (RoomId(row.key),) if row.kind == "event" else ()


def _apply(_room_id: RoomId, tail: RoomTail, row: LogRow) -> RoomTail:
    target = row.data.get("redacts")
    if target is not None:
        _redact(tail, target, row.data["event_id"])
    rows = (*tail.rows, row)
    if len(rows) <= _MAX_ROWS:
        return RoomTail(tail.floor, rows)
    return RoomTail(rows[TAIL_EVENTS - 1].position, rows[TAIL_EVENTS:])


def _redact(tail: RoomTail, target: EventId, redacted_by: EventId) -> None:
    for row in tail.rows:
        event = row.event
        if event is not None and event.redacted_by is None and event.event_id == target:
            event.redact(redacted_by)
