"""Keeps fetched history within bounds: of each room the newest so many events from before its first live one.

Whoever reads back to the end of what is kept has the rest fetched again, as it was fetched the first time. So only rooms are
trimmed in which there are users of other servers. Events are taken out of the timeline in one round of upkeep and deleted in the
next one, when nobody can be reading them any more.

While a room is worked on nothing of other servers enters it. Nothing that is left may rest on what is deleted; and memory, which
could build something new on it, forgets the room first.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from attrs import define, field
from sqlalchemy import Connection

from homeserver.matrix.ids import RoomId, ServerName
from homeserver.rooms.ingest import Ingest
from homeserver.runtime.clock import Clock
from homeserver.runtime.db import Database
from homeserver.store.history_trimming import (
    TRIMMED,
    Cut,
    delete_snapshots,
    delete_trimmed_events,
    end_sweep,
    load_cut,
    load_long_histories,
    load_sweep,
    load_unswept_rooms,
    save_cut,
)
from homeserver.store.log_writer import LogItem
from homeserver.store.outliers import HIDDEN

logger = logging.getLogger(__name__)

BATCH_EVENTS: Final = 200
BATCH_ROWS: Final = 500
# Between two batches, so that others write meanwhile.
PAUSE_MS: Final = 20
# A room is trimmed when it has a tenth more than it may keep: so it is not looked at for every page that somebody fetches.
SLACK: Final = 10


@define(eq=False)
class HistoryTrims:
    server_name: ServerName
    database: Database
    clock: Clock
    ingest: Ingest
    kept_events: int
    _stopped: bool = field(default=False, init=False)

    def stop(self) -> None:
        """After the batch in hand; the rest is for the next round."""
        self._stopped = True

    async def run(self) -> None:
        """One round: delete what the one before took out, then take out what is too much now."""
        if not self.kept_events:
            return
        for room_id in await self.database.read(load_unswept_rooms):
            if self._stopped:
                return
            await self._sweep(room_id)
        before = -(self.kept_events + self.kept_events // SLACK)
        for room_id in await self.database.read(load_long_histories, self.server_name, before):
            if self.ingest.partial.get(room_id) is None:
                await self._trim(room_id)

    async def _trim(self, room_id: RoomId) -> None:
        trimmed = 0
        while not self._stopped:
            async with self.ingest.turns.take(room_id):
                cut = await self.database.read(load_cut, room_id, -self.kept_events, BATCH_EVENTS)
                if cut is None:
                    break
                await self.ingest.log.submit(_cut_item(cut))
            trimmed += len(cut.nids)
            await self.clock.sleep(PAUSE_MS)
        logger.info("%d events of fetched history of %s are let go", trimmed, room_id)

    async def _sweep(self, room_id: RoomId) -> None:
        async with self.ingest.turns.take(room_id):
            sweep = await self.database.read(load_sweep, room_id, self.server_name)
            # Whoever holds a state that goes must not build another one on it.
            await self.ingest.log.submit(LogItem(TRIMMED, room_id, {}))
            for snapshot_ids in _batches(sweep.snapshot_ids):
                await self.database.run(delete_snapshots, room_id, snapshot_ids)
                await self.clock.sleep(PAUSE_MS)
            for nids in _batches(sweep.nids):
                await self.database.run(delete_trimmed_events, room_id, nids)
                await self.clock.sleep(PAUSE_MS)
            await self.database.run(end_sweep, sweep)


def _cut_item(cut: Cut) -> LogItem:
    def save(conn: Connection, _: int) -> None:
        save_cut(conn, cut)

    return LogItem(HIDDEN, cut.room_id, {"event_ids": list(cut.event_ids)}, save)


def _batches(ids: Sequence[int]) -> list[Sequence[int]]:
    return [ids[start : start + BATCH_ROWS] for start in range(0, len(ids), BATCH_ROWS)]
