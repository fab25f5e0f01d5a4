"""Counters of the API in Prometheus' format. Counts; decides nothing."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The counters of one server; each has a registry of its own."""

    def __init__(self) -> None:
        """Start every counter at zero."""
        registry = self._registry = CollectorRegistry()
        prefix = "adapter_factory"
        self.requests = Counter(
            f"{prefix}_requests", "Answered requests", ("model", "route", "status"), registry=registry
        )
        self.tokens = Counter(
            f"{prefix}_tokens", "Tokens read and written", ("model", "kind"), registry=registry
        )
        self.first_token = Histogram(
            f"{prefix}_first_token_seconds",
            "Time to the first chunk",
            ("model",),
            buckets=SECONDS,
            registry=registry,
        )
        self.running = Gauge(f"{prefix}_requests_running", "Requests being answered", registry=registry)
        self.deaths = Counter(
            f"{prefix}_engine_deaths", "Engines that ended by themselves", registry=registry
        )
        self.lost = Counter(
            f"{prefix}_lost_attempts", "Attempts without an answer", ("model",), registry=registry
        )
        self.fallbacks = Counter(
            f"{prefix}_fallbacks", "Answers by a stand-in", ("model",), registry=registry
        )

    def text(self) -> bytes:
        """Return all counters as Prometheus reads them."""
        return generate_latest(self._registry)
