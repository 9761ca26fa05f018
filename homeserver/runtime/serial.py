"""A number for each change of ephemeral data (typing, presence), so that clients can say what they have seen."""

from __future__ import annotations

from homeserver.runtime.clock import Clock


class Serial:
    """Grows with every change, over restarts too: it never falls behind the wall clock's milliseconds."""

    __slots__ = ("_clock", "value")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.value = clock.time_ms()

    def raise_it(self) -> int:
        """The number of a change that happens now."""
        self.value = max(self.value + 1, self._clock.time_ms())
        return self.value
