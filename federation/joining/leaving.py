"""Telling the inviter's server that a user refused the invite, or takes a knock back.

For the user that is done at once, whatever becomes of the other server. Where it can't be reached it is told later, again and
again with longer and longer pauses, for some days: until it answers, or the user is invited anew or has joined. What is to be
told stands in the database, so a restart goes on with it. Until then people in the room see the user as invited.

Spec: server-server-api#leaving-rooms-rejecting-invites
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore

from federation.errors import BadAnswer, NotAllowed, RemoteUnreachable
from federation.joining.knock import DoorHandshake
from federation.joining.ports import OutsideRooms
from homeserver.matrix.errors import MatrixError, NotFound
from homeserver.matrix.ids import RoomId, ServerName, UserId, domain_of
from homeserver.matrix.pdu import Pdu
from homeserver.runtime.clock import Clock
from homeserver.runtime.coroutine import within
from homeserver.runtime.db import Database
from homeserver.store.untold_leaves import UntoldLeave, delete_untold_leave, load_untold_leaves, save_untold_leave

logger = logging.getLogger(__name__)

FIRST_PAUSE_MS: Final = 30_000
MAX_PAUSE_MS: Final = 6 * 3600 * 1000
GIVE_UP_AFTER_MS: Final = 3 * 24 * 3600 * 1000
TRY_TIMEOUT_MS: Final = 120_000
MAX_AT_ONCE: Final = 10


@define(eq=False)
class Leaving:
    """Sends leaves, at once and later."""

    clock: Clock
    database: Database
    handshake: DoorHandshake
    outside: OutsideRooms
    _slots: DeferredSemaphore = field(init=False, factory=lambda: DeferredSemaphore(MAX_AT_ONCE))
    _running: set[Deferred[None]] = field(init=False, factory=set)
    _stopping: bool = field(init=False, default=False)

    async def start(self) -> None:
        """Go on with what was not told before."""
        for leave in await self.database.read(load_untold_leaves):
            self._begin(leave)

    async def stop(self) -> None:
        self._stopping = True
        for running in list(self._running):
            running.cancel()

    async def send(self, room_id: RoomId, user_id: UserId, content: Mapping[str, Any], server: ServerName) -> Pdu:
        """The leave that `server` took, or another one that is likely in the room.

        Raises: MatrixError, what became of it at `server`.
        """
        try:
            return await self.handshake.leave(room_id, user_id, content, [server])
        except MatrixError as error:
            others = [*await self.outside.load_servers(user_id, room_id), domain_of(room_id)]
            try:
                return await self.handshake.leave(
                    room_id, user_id, content, [each for each in others if each != server]
                )
            except MatrixError:
                raise error from None

    async def send_later(self, leave: Pdu, server: ServerName) -> None:
        """The leave stands here, and only here."""
        untold = UntoldLeave(leave.sender, leave.room_id, leave.event_id, server, self.clock.time_ms())
        await self.database.run(save_untold_leave, untold)
        self._begin(untold)

    def _begin(self, leave: UntoldLeave) -> None:
        if self._stopping:
            return
        running = Deferred.fromCoroutine(self._tell(leave))
        self._running.add(running)
        running.addBoth(self._on_end, running)

    def _on_end(self, failure: Any, running: Deferred[None]) -> None:
        self._running.discard(running)
        if failure is not None and not failure.check(CancelledError) and not self._stopping:
            logger.error("A leave is not told", exc_info=(failure.type, failure.value, failure.tb))

    async def _tell(self, leave: UntoldLeave) -> None:
        """Returns when that is done, or of no use any more."""
        pause_ms = FIRST_PAUSE_MS
        while self.clock.time_ms() < leave.since_ts_ms + GIVE_UP_AFTER_MS:
            await self.clock.sleep(pause_ms)
            pause_ms = min(2 * pause_ms, MAX_PAUSE_MS)
            if await self._try(leave):
                break
        await self.database.run(delete_untold_leave, leave)

    async def _try(self, leave: UntoldLeave) -> bool:
        """Whether there is nothing more to do."""
        await self._slots.acquire()
        try:
            event = await self._load(leave)
            if event is None:
                return True
            content = event.content
            await within(self.clock, TRY_TIMEOUT_MS, self.send(leave.room_id, leave.user_id, content, leave.server))
        except (MatrixError, TimeoutError) as error:
            logger.info("%s is not told yet of the leave of %s: %s", leave.server, leave.user_id, error)
            return not may_help_later(error)
        finally:
            self._slots.release()
        return True

    async def _load(self, leave: UntoldLeave) -> Pdu | None:
        """The leave, if it is still how things stand."""
        try:
            event = await self.outside.load_event(leave.user_id, leave.room_id)
        except NotFound:
            return None
        return event if event.event_id == leave.event_id else None


def may_help_later(error: Exception) -> bool:
    """Whether another try may be of use: the server was not there, or was not well."""
    match error:
        case NotAllowed():
            return False
        case TimeoutError() | RemoteUnreachable() | BadAnswer():
            return True
        case MatrixError():
            return error.status >= 500 or error.status == 429
    return False
