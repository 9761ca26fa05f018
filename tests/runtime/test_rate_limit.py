"""Token buckets."""

from __future__ import annotations

import pytest

from homeserver.matrix.errors import LimitExceeded
from homeserver.runtime.clock import ManualClock
from homeserver.runtime.config_sections import Rate, RateLimitsConfig
from homeserver.runtime.rate_limit import RateLimiter


def limiter(clock: ManualClock, *, max_buckets: int = 100, enabled: bool = True) -> RateLimiter:
    config = RateLimitsConfig(enabled=enabled, message=Rate(per_second=2.0, burst=3))
    return RateLimiter(clock, config, max_buckets)


def allowed(limits: RateLimiter, key: str = "a", kind: str = "message") -> int:
    """How many requests in a row are let through."""
    for count in range(1000):
        try:
            limits.check(kind, key)
        except LimitExceeded:
            return count
    return 1000


def test_burst_is_let_through_and_then_no_more() -> None:
    assert allowed(limiter(ManualClock())) == 3


def test_refusal_says_when_it_is_worth_coming_back() -> None:
    clock = ManualClock()
    limits = limiter(clock)
    allowed(limits)
    with pytest.raises(LimitExceeded) as caught:
        limits.check("message", "a")
    assert caught.value.retry_after_ms == 500
    clock.advance(499)
    with pytest.raises(LimitExceeded):
        limits.check("message", "a")
    clock.advance(1)
    limits.check("message", "a")


def test_bucket_fills_up_to_its_burst() -> None:
    clock = ManualClock()
    limits = limiter(clock)
    allowed(limits)
    clock.advance(1_000_000)
    assert allowed(limits) == 3


def test_keys_and_kinds_are_counted_apart() -> None:
    limits = limiter(ManualClock())
    allowed(limits, "a")
    assert allowed(limits, "b") == 3
    assert allowed(limits, "a", "login") > 0


def test_cost_is_taken_as_a_whole() -> None:
    limits = limiter(ManualClock())
    limits.check("message", "a", cost=2)
    with pytest.raises(LimitExceeded):
        limits.check("message", "a", cost=2)
    limits.check("message", "a", cost=1)


def test_least_recently_used_bucket_is_forgotten_first() -> None:
    limits = limiter(ManualClock(), max_buckets=2)
    allowed(limits, "a")
    limits.check("message", "b")
    limits.check("message", "c")
    assert allowed(limits, "a") == 3


def test_switched_off_lets_everything_through() -> None:
    assert allowed(limiter(ManualClock(), enabled=False)) == 1000


def test_reload_takes_new_rates_and_keeps_the_others_levels() -> None:
    limits = limiter(ManualClock())
    allowed(limits)
    limits.reload(RateLimitsConfig(message=Rate(per_second=2.0, burst=3), login=Rate(per_second=1, burst=1)))
    assert allowed(limits) == 0
    assert allowed(limits, kind="login") == 1
