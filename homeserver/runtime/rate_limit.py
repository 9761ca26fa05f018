"""Rate limits: a token bucket for each kind of request and each user or address.

A bucket is two numbers, filled lazily when it is asked, so that a thousand idle ones cost nothing but their
memory. How many there are is bounded: the least recently used goes first, and has a full bucket again.

Spec: client-server-api#rate-limiting
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Final, get_type_hints

from homeserver.matrix.errors import LimitExceeded
from homeserver.runtime.clock import Clock
from homeserver.runtime.config_sections import Rate, RateLimitsConfig

# About 200 bytes each.
MAX_BUCKETS: Final = 20_000


class RateLimiter:
    """Refuses what comes too often."""

    __slots__ = ("_clock", "_enabled", "_kinds", "_max_buckets")

    def __init__(self, clock: Clock, config: RateLimitsConfig, max_buckets: int = MAX_BUCKETS) -> None:
        self._clock = clock
        self._max_buckets = max_buckets
        self._enabled = config.enabled
        self._kinds = {name: _Buckets(rate, max_buckets) for name, rate in rates_of(config).items()}

    def check(self, kind: str, key: str, cost: float = 1.0) -> None:
        """Takes `cost` from the bucket of (kind, key).

        Raises: LimitExceeded, with the time until there would be enough; nothing is taken then.
        """
        if self._enabled:
            self._kinds[kind].take(key, cost, self._clock.monotonic_ms())

    def knows(self, kind: str) -> bool:
        return kind in self._kinds

    def reload(self, config: RateLimitsConfig) -> None:
        """Takes on new rates; buckets of unchanged kinds keep their levels."""
        self._enabled = config.enabled
        for name, rate in rates_of(config).items():
            if self._kinds[name].rate != rate:
                self._kinds[name] = _Buckets(rate, self._max_buckets)


def rates_of(config: RateLimitsConfig) -> Mapping[str, Rate]:
    """The rate of each kind."""
    values = {name: getattr(config, name) for name in get_type_hints(RateLimitsConfig)}
    return {name: value for name, value in values.items() if isinstance(value, Rate)}


class _Buckets:
    """The buckets of one kind: key to (level, time of that level), least recently used first."""

    __slots__ = ("_levels", "_max", "rate")

    def __init__(self, rate: Rate, maximum: int) -> None:
        self.rate = rate
        self._max = maximum
        self._levels: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def take(self, key: str, cost: float, now_ms: int) -> None:
        level, then_ms = self._levels.get(key, (float(self.rate.burst), now_ms))
        level = min(float(self.rate.burst), level + (now_ms - then_ms) * self.rate.per_second / 1000)
        cost = min(cost, float(self.rate.burst))
        if level < cost:
            raise LimitExceeded(max(1, -int(-(cost - level) * 1000 // self.rate.per_second)))
        self._levels[key] = (level - cost, now_ms)
        self._levels.move_to_end(key)
        if len(self._levels) > self._max:
            self._levels.popitem(last=False)
