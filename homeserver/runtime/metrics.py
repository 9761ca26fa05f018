"""Figures for Prometheus.

The request counters live in the endpoints' plans, where counting costs nearly nothing; they become Prometheus's text only
when somebody asks. prometheus_client is imported then, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from homeserver.runtime.http.endpoint import Auth, endpoint
from homeserver.runtime.http.plan import LATENCY_BUCKETS_S, Traffic
from homeserver.runtime.http.response import Response
from homeserver.runtime.http.router import Router
from homeserver.runtime.loop_lag import LAG_BUCKETS_S, LoopLag

if TYPE_CHECKING:
    from prometheus_client.core import Metric

TAG = "Operation"


class Metrics:
    """Serves /metrics."""

    def __init__(self, router: Router, lag: LoopLag) -> None:
        self._router = router
        self._lag = lag
        self._registry: Any = None

    @endpoint("GET", "/metrics", auth=Auth.NONE, resource="metrics", tag=TAG, summary="Figures for Prometheus")
    async def get_metrics(self) -> Response:
        from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

        return Response(200, generate_latest(self._loaded()), [("Content-Type", CONTENT_TYPE_PLAIN_0_0_4)])

    def _loaded(self) -> Any:
        if self._registry is None:
            from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

            self._registry = CollectorRegistry()
            for collector in (ProcessCollector, PlatformCollector, GCCollector):
                collector(registry=self._registry)
            self._registry.register(self)
        return self._registry

    def collect(self) -> Iterator[Metric]:
        """What prometheus_client asks a collector for."""
        from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

        requests = CounterMetricFamily(
            "hearth_http_requests", "Requests answered.", labels=["method", "path", "status"]
        )
        seconds = HistogramMetricFamily("hearth_http_request_seconds", "Time to the answer.", labels=["method", "path"])
        for traffic in self._traffic():
            labels = [traffic.method, traffic.template]
            for status, count in traffic.statuses.items():
                requests.add_metric([*labels, str(status)], count)
            seconds.add_metric(labels, _cumulated(LATENCY_BUCKETS_S, traffic.latencies), traffic.latency_sum_s)
        yield requests
        yield seconds
        lag = HistogramMetricFamily("hearth_event_loop_lag_seconds", "How late the event loop ran what was due.")
        lag.add_metric([], _cumulated(LAG_BUCKETS_S, self._lag.counts), self._lag.sum_s)
        yield lag

    def _traffic(self) -> Iterable[Traffic]:
        return (traffic for traffic in (*self._router.plans, self._router.unmatched) if traffic.statuses)


def _cumulated(bounds: Sequence[float], counts: Sequence[int]) -> list[tuple[str, float]]:
    """Prometheus counts cumulatively."""
    total = 0
    buckets: list[tuple[str, float]] = []
    for bound, count in zip([*map(str, bounds), "+Inf"], counts, strict=True):
        total += count
        buckets.append((bound, total))
    return buckets
