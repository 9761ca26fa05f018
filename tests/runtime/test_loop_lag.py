"""The event loop's lag, as Prometheus is told it."""

from __future__ import annotations

from homeserver.runtime.clock import ManualClock
from homeserver.runtime.http.router import Router
from homeserver.runtime.loop_lag import INTERVAL_MS, LoopLag
from homeserver.runtime.metrics import Metrics


def test_lag_is_how_much_later_than_due_a_timer_runs() -> None:
    clock = ManualClock()
    lag = LoopLag(clock)
    lag.start()
    for late_ms in (0, 0, 30, 700, 60_000):
        clock.advance(INTERVAL_MS + late_ms)
    [told] = [metric for metric in Metrics(Router(), lag).collect() if metric.name == "hearth_event_loop_lag_seconds"]
    figures = {(each.name.rpartition("_")[2], each.labels.get("le", "")): each.value for each in told.samples}
    seen = [figures["bucket", bound] for bound in ("0.001", "0.025", "0.05", "0.5", "1.0", "10.0", "+Inf")]
    assert seen == [2, 2, 3, 3, 4, 4, 5]
    assert figures["sum", ""] == 60.73
