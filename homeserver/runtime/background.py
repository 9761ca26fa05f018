"""Work that no request waits for: begun by a row of the log or by a timer, and finished before the server stops.

What takes several steps would find the database closed between two of them otherwise, and be half done.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

logger = logging.getLogger(__name__)


class Background:
    """Runs coroutines, until it is stopped."""

    def __init__(self) -> None:
        self._running = 0
        self._waiting: Deferred[None] | None = None
        self._stopped = False

    def run(
        self, coroutine: Coroutine[Any, Any, object], fault: str, on_failure: Callable[[], object] | None = None
    ) -> None:
        """Begin it, unless the server stops. What it raises is logged behind `fault`, a sentence; then comes `on_failure`."""
        if self._stopped:
            coroutine.close()
            return
        self._running += 1
        Deferred.fromCoroutine(coroutine).addBoth(self._on_end, fault, on_failure)

    async def wait(self) -> None:
        """Until nothing runs. For one at a time."""
        if self._running:
            self._waiting = Deferred()
            await self._waiting

    async def stop(self) -> None:
        """Let what runs come to its end, and begin nothing more."""
        self._stopped = True
        await self.wait()

    def _on_end(self, result: Any, fault: str, on_failure: Callable[[], object] | None) -> None:
        self._running -= 1
        if isinstance(result, Failure):
            logger.error(fault, exc_info=result.value)
            if on_failure is not None:
                on_failure()
        if not self._running and self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            waiting.callback(None)
