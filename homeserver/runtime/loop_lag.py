"""How late the event loop is: how long whatever is due waits for its turn.

One thread does all the work that is not the database's; when something holds it, everybody waits. A timer that is always set for
the same time measures how long.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Any, Final

from attrs import define, field

from homeserver.runtime.clock import Clock

INTERVAL_MS: Final = 250
LAG_BUCKETS_S: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


@define(eq=False)
class LoopLag:
    """Counts lags; `counts` has one more entry than there are buckets, for what is longer than all."""

    clock: Clock
    counts: list[int] = field(init=False, factory=lambda: [0] * (len(LAG_BUCKETS_S) + 1))
    sum_s: float = field(init=False, default=0.0)
    _due_ms: int = field(init=False, default=0)
    _timer: Any = field(init=False, default=None)

    def start(self) -> None:
        self._due_ms = self.clock.monotonic_ms() + INTERVAL_MS
        self._timer = self.clock.call_later(INTERVAL_MS, self._on_time)

    async def stop(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def note(self, lag_ms: int) -> None:
        lag_s = max(lag_ms, 0) / 1000
        self.counts[bisect_left(LAG_BUCKETS_S, lag_s)] += 1
        self.sum_s += lag_s

    def _on_time(self) -> None:
        self.note(self.clock.monotonic_ms() - self._due_ms)
        self.start()
