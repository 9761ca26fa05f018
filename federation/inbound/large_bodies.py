"""Large bodies of other servers' requests: how many are unfolded at one moment.

Decoded, a body may take 30 times its memory, and as much of the reactor's time. So of each server one large request is dealt
with at a time, and few of all of them; a few more wait, as the bytes that came, and what goes beyond that is told to come
again later.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Final

from attrs import define, field
from twisted.internet.defer import Deferred

from homeserver.matrix.errors import LimitExceeded

LARGE_BYTES: Final = 256 * 1024
AT_ONCE: Final = 3
WAITING: Final = 20
WAITING_OF_EACH: Final = 4
RETRY_AFTER_MS: Final = 2_000


@define(eq=False)
class Line:
    """Places, one for each key and `at_once` in all; who comes first is let in first.

    running, most_running: now, and at most so far.
    """

    at_once: int = AT_ONCE
    running: set[Hashable] = field(init=False, factory=set)
    most_running: int = field(init=False, default=0)
    waiting: deque[tuple[Hashable, Deferred[None]]] = field(init=False, factory=deque)

    async def enter(self, key: Hashable) -> None:
        """Take a place, which the caller gives back with `leave`. Raises: LimitExceeded."""
        if self._may_enter(key):
            self._take(key)
            return
        mine = sum(1 for each, _ in self.waiting if each == key)
        if mine >= WAITING_OF_EACH or len(self.waiting) >= WAITING:
            raise LimitExceeded(RETRY_AFTER_MS, "Too many large requests at once")
        turn: Deferred[None] = Deferred()
        self.waiting.append((key, turn))
        try:
            await turn  # whoever calls it has taken the place for us
        except BaseException:
            self.waiting.remove((key, turn))
            raise

    def leave(self, key: Hashable) -> None:
        self.running.discard(key)
        # Whoever is let in may leave before the callback returns, as when its client is gone: so each is looked for anew.
        while (entry := next((each for each in self.waiting if self._may_enter(each[0])), None)) is not None:
            self.waiting.remove(entry)
            self._take(entry[0])
            entry[1].callback(None)

    def _may_enter(self, key: Hashable) -> bool:
        return key not in self.running and len(self.running) < self.at_once

    def _take(self, key: Hashable) -> None:
        self.running.add(key)
        self.most_running = max(self.most_running, len(self.running))
