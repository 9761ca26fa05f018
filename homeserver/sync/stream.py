"""Responses of /sync as a stream: each is sent as soon as it says something, no request in between.

Nothing is sent while the client is behind with reading; the next response then tells all that happened meanwhile, so a slow
client costs no more than a fast one. What is sent is not taken for received: messages to the device are deleted only when the
client acknowledges them, or comes back with a token behind them.
"""

from __future__ import annotations

from typing import Protocol

from attrs import define, field
from twisted.internet.defer import Deferred

from homeserver.folds.memberships import UserRooms
from homeserver.runtime.coroutine import Drive
from homeserver.sync.request import SyncRequest
from homeserver.sync.service import Answer, SyncService


class Outlet(Protocol):
    """Where responses go."""

    @property
    def is_writable(self) -> bool: ...

    def send_update(self, body: bytes, /) -> None: ...


@define(eq=False)
class SyncStream:
    """One client's stream, a Listener; `run` goes on until it or the server is stopped."""

    service: SyncService
    request: SyncRequest
    outlet: Outlet
    drive: Drive | None = field(default=None, init=False)
    _stopped: bool = field(default=False, init=False)
    _writable: Deferred[None] | None = field(default=None, init=False)
    _needed: Deferred[None] | None = field(default=None, init=False)

    async def run(self) -> None:
        """Raises: SyncBusy; CancelledError."""
        await self.service.begin(self.request)
        while not self._stopped and not self.service.notifier.is_draining:
            if not self.outlet.is_writable:
                await self._wait_writable()
                continue
            answer, rooms = await self.service.build(self.request)
            if self._stopped:
                return
            self._tell(answer)
            if answer.token.to_device is None and not self.service.notifier.is_draining:
                # No await since the response was built, so no wake-up is lost.
                await self._listen(rooms)

    def on_news(self) -> None:
        """Tell at once what memory has; `run` goes on where something has to be loaded or waited for."""
        answer = None
        if self.outlet.is_writable and not self.service.notifier.is_draining:
            try:
                answer = self.service.build_from_memory(self.request)
            except Exception:  # `run` meets it too, and ends with it: whoever else listens is still told
                answer = None
        if answer is not None:
            self._tell(answer)
            if answer.token.to_device is None:
                return
        needed, self._needed = self._needed, None
        if needed is not None:
            needed.callback(None)

    async def acknowledge(self, request: SyncRequest) -> None:
        """The client has everything up to the request's token."""
        await self.service.acknowledge(request)

    def on_writable(self) -> None:
        waiting, self._writable = self._writable, None
        if waiting is not None:
            waiting.callback(None)

    def stop(self) -> None:
        self._stopped = True
        drive, self.drive = self.drive, None
        if drive is not None:
            drive.cancel()

    def _tell(self, answer: Answer) -> None:
        request = self.request
        if not answer.is_empty or request.since is None or request.full_state:
            self.outlet.send_update(answer.body)
        self.request = request.since_then(answer.token)

    async def _listen(self, rooms: UserRooms) -> None:
        """Until there is something that `on_news` can't tell."""
        notifier, user_id = self.service.notifier, self.request.user_id
        needed = self._needed = Deferred()
        notifier.listen(user_id, rooms, self)
        try:
            await needed
        finally:
            self._needed = None
            notifier.unlisten(user_id, self)

    async def _wait_writable(self) -> None:
        self._writable = Deferred()
        await self._writable
