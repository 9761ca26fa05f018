"""When and from where devices were last seen: noted in memory, written in batches, each device seldom.

A device is written at most once per INTERVAL_MS; what a crash loses is at most one interval's seen-stamps.
"""

from __future__ import annotations

import logging
from typing import Any, Protocol

from attrs import define, field
from twisted.internet.defer import Deferred

from homeserver.accounts.limits import shorten
from homeserver.accounts.requester import Requester
from homeserver.matrix.ids import DeviceId, UserId
from homeserver.runtime.clock import Clock
from homeserver.runtime.db import Database
from homeserver.store.devices import LastSeenRow, save_last_seen

logger = logging.getLogger(__name__)

INTERVAL_MS = 5 * 60 * 1000
FLUSH_MS = 60 * 1000
MAX_REMEMBERED = 50_000
MAX_USER_AGENT_BYTES = 512


class Request(Protocol):
    """What is of interest in a request."""

    @property
    def client_ip(self) -> str: ...

    @property
    def user_agent(self) -> str | None: ...


_Key = tuple[UserId, DeviceId]


@define(eq=False)
class LastSeen:
    database: Database
    clock: Clock
    _noted_ts_ms: dict[_Key, int] = field(factory=dict, init=False)
    _pending: dict[_Key, LastSeenRow] = field(factory=dict, init=False)
    _timer: Any = field(default=None, init=False)

    def note(self, requester: Requester, request: Request) -> None:
        """Remember the request, unless the device was noted a short while ago.

        It is the HTTP server's on_authenticated.
        """
        if requester.device_id is None:
            return
        key = (requester.user_id, requester.device_id)
        now_ms = self.clock.time_ms()
        if now_ms - self._noted_ts_ms.get(key, 0) < INTERVAL_MS:
            return
        if len(self._noted_ts_ms) >= MAX_REMEMBERED:
            self._noted_ts_ms.clear()
        self._noted_ts_ms[key] = now_ms
        agent = request.user_agent
        shown = shorten(agent, MAX_USER_AGENT_BYTES) if agent else None
        self._pending[key] = LastSeenRow(*key, now_ms, request.client_ip, shown)
        if self._timer is None:
            self._timer = self.clock.call_later(FLUSH_MS, self._on_timer)

    async def flush(self) -> None:
        pending, self._pending = self._pending, {}
        if pending:
            await self.database.run(save_last_seen, list(pending.values()))

    async def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        await self.flush()

    def _on_timer(self) -> None:
        self._timer = None
        Deferred.fromCoroutine(self.flush()).addErrback(_log_failure)


def _log_failure(failure: Any) -> None:
    logger.error("Writing last-seen stamps failed", exc_info=failure.value)
