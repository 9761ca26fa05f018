"""Threads of our own, so that slow disks and large images hold up nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from homeserver.matrix.errors import LimitExceeded

T = TypeVar("T")
RETRY_MS = 1000


@define(eq=False)
class Workers:
    """At most `threads` at once; more than `max_waiting` behind them are refused, if it is given."""

    reactor: Any
    name: str
    threads: int
    max_waiting: int | None = None
    _pool: ThreadPool = field(init=False)
    _in_hand: int = field(init=False, default=0)

    def __attrs_post_init__(self) -> None:
        self._pool = ThreadPool(0, self.threads, self.name)

    def start(self) -> None:
        self._pool.start()

    def stop(self) -> None:
        """Waits for what is in hand."""
        if self._pool.started:
            self._pool.stop()

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """Raises: LimitExceeded when too much waits, and what the function raises."""
        if self.max_waiting is not None and self._in_hand >= self.threads + self.max_waiting:
            raise LimitExceeded(RETRY_MS, "Too many files are in hand")
        self._in_hand += 1
        running: Deferred[T] = deferToThreadPool(self.reactor, self._pool, self._counted, function, args)
        return await running

    def _counted(self, function: Callable[..., T], args: tuple[Any, ...]) -> T:
        try:
            return function(*args)
        finally:
            self.reactor.callFromThread(self._done)

    def _done(self) -> None:
        self._in_hand -= 1
