"""An event that waits in a room's queue (room_queue.py)."""

from __future__ import annotations

from attrs import define, field
from twisted.internet.defer import Deferred

from homeserver.matrix.ids import ServerName
from homeserver.matrix.pdu import Pdu


@define(eq=False)
class Queued:
    """An event that waits. `error` says why it was not taken in, once `done`."""

    pdu: Pdu
    origin: ServerName
    raw: object
    number: int
    staged_bytes: int = 0
    staging: bool = False  # being written to the table just now
    attempts: int = 0
    lingers_until_ms: int | None = None
    done: bool = False
    error: str | None = None
    twins: list[Queued] = field(factory=list)  # the same event, sent by others or again: they come to the same
    _waiting: list[Deferred[None]] = field(init=False, factory=list)

    async def wait(self) -> None:
        """Until it is done."""
        if not self.done:
            waiting: Deferred[None] = Deferred()
            self._waiting.append(waiting)
            await waiting

    def finish(self, error: str | None = None) -> None:
        self.done, self.error, self.raw = True, error, None
        for waiting in self._waiting:
            if not waiting.called:
                waiting.callback(None)
        self._waiting.clear()
