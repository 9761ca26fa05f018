"""Deleting rooms, while whoever wants to enter one of them anew waits.

The log says that a room is unknown from now on, and when its last row is gone. In between the rows go in small transactions,
so that others write meanwhile; nothing of the room may be stored then, or it would go, too. So whatever stores something of a
room that this server is not in does it within `entering`. A purge that a stopped process left behind goes on at the next start.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final, Protocol

from attrs import define, field
from sqlalchemy import Connection
from twisted.internet.defer import Deferred

from homeserver.matrix.errors import MatrixError
from homeserver.matrix.ids import RoomId, ServerName
from homeserver.rooms.directory import DIRECTORY
from homeserver.runtime.clock import Clock
from homeserver.runtime.db import Database
from homeserver.runtime.turns import Turns
from homeserver.store.history_trimming import TRIMMED
from homeserver.store.log import LogRow
from homeserver.store.log_writer import LogItem, LogWriter
from homeserver.store.room_repair import REPAIRED
from homeserver.store.room_upkeep import PURGED, PURGING, StillInUse, begin_purge, end_purge, load_purges, purge_rows

logger = logging.getLogger(__name__)

BATCH_ROWS: Final = 500
# Between two batches, so that sending hardly waits for them.
PAUSE_MS: Final = 20


class RoomInUse(MatrixError):
    """Local users are in the room."""

    status = 409
    errcode = "M_UNKNOWN"


class RoomGate(Protocol):
    def entering(self, room_id: RoomId, /) -> AbstractAsyncContextManager[None]: ...


class OpenGate:
    """Where no rooms are deleted."""

    @asynccontextmanager
    async def entering(self, _room_id: RoomId, /) -> AsyncIterator[None]:
        yield


class KnowsRooms(Protocol):
    """What holds something of rooms in memory."""

    def drop_room(self, room_id: RoomId, /) -> None: ...


@define(eq=False)
class RoomPurges:
    """Deletes rooms whole. Follows the log, behind none of the caches that it tells."""

    server_name: ServerName
    database: Database
    log: LogWriter
    clock: Clock
    caches: list[KnowsRooms] = field(factory=list)
    _going: dict[RoomId, list[Deferred[None]]] = field(factory=dict, init=False)
    _entering: Counter[RoomId] = field(factory=Counter, init=False)
    _turns: Turns[RoomId] = field(factory=Turns, init=False)
    _stopped: bool = field(default=False, init=False)

    async def start(self) -> None:
        """Know what was begun, before anything is stored. It goes on with `resume`."""
        for room_id in await self.database.read(load_purges):
            self._going.setdefault(room_id, [])

    async def resume(self) -> None:
        """Finish what was begun."""
        for room_id in list(self._going):
            await self._delete(room_id)

    def stop(self) -> None:
        """After the batch in hand; the rest is for the next start."""
        self._stopped = True

    async def purge(self, room_id: RoomId, *, force: bool = False) -> None:
        """Delete the room; `force`: though local users are in it, whose clients then know it no more.

        Raises: RoomInUse.
        """
        if self._entering[room_id]:
            raise RoomInUse("Users of this server are entering the room")
        self._going.setdefault(room_id, [])
        try:
            await self.log.submit(self._item(room_id, force))
        except StillInUse:
            self._end(room_id)
            raise RoomInUse("Users of this server are in the room, or invited to it") from None
        logger.info("Deleting the room %s", room_id)
        await self._delete(room_id)

    @asynccontextmanager
    async def entering(self, room_id: RoomId) -> AsyncIterator[None]:
        """For whoever stores something of a room that may be empty: once it is not being deleted, and it won't be meanwhile."""
        while (waiting := self._going.get(room_id)) is not None:
            done: Deferred[None] = Deferred()
            waiting.append(done)
            await done
        self._entering[room_id] += 1
        try:
            yield
        finally:
            self._entering[room_id] -= 1
            if not self._entering[room_id]:
                del self._entering[room_id]

    def on_rows(self, rows: Sequence[LogRow]) -> None:
        """Follow the log."""
        for row in rows:
            room_id = RoomId(row.key)
            if row.kind in (REPAIRED, TRIMMED):
                self._drop(room_id)
            elif row.kind == PURGING:
                self._going.setdefault(room_id, [])
                self._drop(room_id)
            elif row.kind == PURGED:
                self._drop(room_id)
                self._end(room_id)

    def _item(self, room_id: RoomId, force: bool) -> LogItem:
        now_ms = self.clock.time_ms()

        def save(conn: Connection, _: int) -> None:
            begin_purge(conn, room_id, self.server_name, now_ms, force=force)

        return LogItem(PURGING, room_id, {}, save, also=[(DIRECTORY, room_id, {})])

    def _end(self, room_id: RoomId) -> None:
        for waiting in self._going.pop(room_id, ()):
            if not waiting.called:
                waiting.callback(None)

    def _drop(self, room_id: RoomId) -> None:
        for cache in self.caches:
            cache.drop_room(room_id)

    async def _delete(self, room_id: RoomId) -> None:
        async with self._turns.take(room_id):
            if room_id not in self._going:
                return  # another was first
            while not self._stopped and await self.database.run(purge_rows, room_id, BATCH_ROWS):
                await self.clock.sleep(PAUSE_MS)
            if not self._stopped:
                await self.log.submit(LogItem(PURGED, room_id, {}, lambda conn, _: end_purge(conn, room_id)))
