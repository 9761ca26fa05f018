"""When something last happened in each room: what room lists are ordered by."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from attrs import frozen
from sqlalchemy import Connection

from homeserver.folds.fold import Fold
from homeserver.matrix.ids import RoomId
from homeserver.runtime.db import Database
from homeserver.store.activity import BUMPING, load_activity
from homeserver.store.log import LogRow

MAX_ROOMS = 100_000


@frozen
class Activity:
    """Places in the timeline: of the newest event, and of the newest of the types that make a room rise in lists."""

    last: int
    bump: int


class RoomActivity:
    """Fold: room -> Activity."""

    def __init__(self, database: Database, max_rooms: int = MAX_ROOMS) -> None:
        self._fold: Fold[RoomId, Activity] = Fold(
            database, load=_load, keys_of=_rooms_of, apply=_apply, max_entries=max_rooms
        )
        self.get = self._fold.get
        self.get_many = self._fold.get_many
        self.load_many = self._fold.load_many
        self.on_rows = self._fold.on_rows

    def drop_room(self, room_id: RoomId) -> None:
        """Its timeline is stored no more."""
        self._fold.drop_where(lambda key: key == room_id)


def _load(conn: Connection, room_ids: Sequence[RoomId]) -> dict[RoomId, Activity]:
    found = load_activity(conn, room_ids)
    return {room_id: Activity(*found.get(room_id, (0, 0))) for room_id in room_ids}


def _rooms_of(row: LogRow) -> Iterable[RoomId]:
    event = row.event
    is_live = (
        event is not None and event.timeline_order == row.position and not event.rejected and not event.soft_failed
    )
    return (RoomId(row.key),) if is_live else ()


def _apply(_room_id: RoomId, activity: Activity, row: LogRow) -> Activity:
    assert row.event is not None
    bumps = row.event.pdu.type in BUMPING
    return Activity(row.position, row.position if bumps else activity.bump)
