"""Rooms that were joined without their members: the full state, fetched in the background until it is there.

The rooms stand in the database, so a restart goes on with them. Of each, the servers that were in it are asked in turn, again and
again with longer and longer pauses; a few rooms at once, for a state is big.

Spec: server-server-api#put_matrixfederationv2send_joinroomideventid
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore

from federation.inbound.fetching import Fetcher
from homeserver.folds.events import EventCache
from homeserver.matrix.errors import MatrixError
from homeserver.matrix.ids import RoomId, ServerName
from homeserver.rooms.heads import RoomHeads
from homeserver.rooms.ingest_completion import Completion
from homeserver.rooms.partial_states import PartialStates
from homeserver.runtime.clock import Clock
from homeserver.store.partial_rooms import PartialRoom

logger = logging.getLogger(__name__)

FIRST_PAUSE_MS: Final = 1_000
MAX_PAUSE_MS: Final = 10 * 60_000
MAX_ROOMS_AT_ONCE: Final = 2
SERVERS_PER_TRY: Final = 4


@define(eq=False)
class StateCompletion:
    """Completes the state of rooms."""

    clock: Clock
    heads: RoomHeads
    events: EventCache
    partial: PartialStates
    fetcher: Fetcher
    completion: Completion
    _slots: DeferredSemaphore = field(init=False, factory=lambda: DeferredSemaphore(MAX_ROOMS_AT_ONCE))
    _running: dict[RoomId, Deferred[None]] = field(init=False, factory=dict)
    _stopping: bool = field(init=False, default=False)

    def start(self) -> None:
        """Go on with the rooms that are not complete yet; called also when one was joined."""
        for room in self.partial.rooms:
            if room.room_id not in self._running and not self._stopping:
                running = Deferred.fromCoroutine(self._complete(room)).addErrback(_ignore_cancelled)
                if not running.called:
                    self._running[room.room_id] = running

    async def stop(self) -> None:
        self._stopping = True
        for running in list(self._running.values()):
            running.cancel()
            await running

    async def _complete(self, room: PartialRoom) -> None:
        """Returns when the room has its state, or needs none any more."""
        pause_ms, tries = FIRST_PAUSE_MS, 0
        try:
            while not self._stopping and self.partial.get(room.room_id) is not None:
                if await self._try(room, _turned(room.servers, tries * SERVERS_PER_TRY)):
                    return
                tries += 1
                await self.clock.sleep(pause_ms)
                pause_ms = min(2 * pause_ms, MAX_PAUSE_MS)
        finally:
            self._running.pop(room.room_id, None)

    async def _try(self, room: PartialRoom, servers: Sequence[ServerName]) -> bool:
        await self._slots.acquire()
        try:
            head = await self.heads.load(room.room_id)
            join = await self.events.load(room.event_id, room.room_id, head.version)
            assert join is not None, "the join of a room that was joined is stored"
            fetched = await self.fetcher.fetch_state_at(join.pdu, servers)
            await self.completion.ingest.store_outliers(head.version, fetched.unknown)
            await self.completion.complete_stored(room.room_id, fetched.state)
        except MatrixError as error:
            logger.info("The full state of %s is not there yet: %s", room.room_id, error)
            return False
        except Exception:
            if self._stopping:
                return True
            logger.exception("The full state of %s can't be completed", room.room_id)
            return False
        finally:
            self._slots.release()
        return True


def _ignore_cancelled(failure: Any) -> None:
    failure.trap(CancelledError)


def _turned(servers: Sequence[ServerName], by: int) -> Sequence[ServerName]:
    by %= max(len(servers), 1)
    return [*servers[by:], *servers[:by]]
