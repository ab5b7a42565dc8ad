"""Count what the service does, for Prometheus.

The names are those of vLLM with the prefix ``fairtale:`` instead of ``vllm:``, so that dashboards
need only this change. Every series has the label ``model_name``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from .interface import Delta, Engine

_PREFIX = "fairtale:"
_REASONS = {"stop": "stop", "length": "length", "cancelled": "abort", "error": "error"}
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 1, 2.5)

# name -> (help text, function of an engine's numbers)
_GAUGES: Mapping[str, tuple[str, Callable[[Engine], float]]] = {
    "num_requests_running": ("Rows of the running batch.", lambda e: e.stats().running),
    "num_requests_waiting": ("Requests in the queue.", lambda e: e.stats().waiting),
    "kv_cache_usage_perc": (
        "Share of the preallocated cache in use; 1 means all of it.",
        lambda e: e.stats().cache_used,
    ),
    "engine_healthy": ("1 if the engine works, else 0.", lambda e: float(e.unhealthy() is None)),
}


class Metrics:
    """The metrics of all models of a service.

    Args:
        engines: name -> engine.
    """

    def __init__(self, engines: Mapping[str, Engine]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Gauges(engines))
        labels = ["model_name"]

        def counter(name: str, text: str, *more: str) -> Counter:
            return Counter(_PREFIX + name, text, [*labels, *more], registry=self._registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(_PREFIX + name, text, labels, buckets=buckets, registry=self._registry)

        self.prompt_tokens = counter("prompt_tokens", "Tokens of prompts.")
        self.generation_tokens = counter("generation_tokens", "Generated tokens.")
        self.finished = counter(
            "request_success", "Texts that ended, by reason.", "finished_reason"
        )
        self.refused = Counter(
            f"{_PREFIX}request_refused",
            "Answers with an error, by HTTP status.",
            ["status"],
            registry=self._registry,
        )
        self.first_token = histogram(
            "time_to_first_token_seconds", "From the request to its first token.", _SECONDS
        )
        self.per_token = histogram(
            "time_per_output_token_seconds", "Between two tokens of a text.", _TOKEN_SECONDS
        )
        self.whole = histogram(
            "e2e_request_latency_seconds", "From the request to its last token.", _SECONDS
        )
        self.models = {name: ModelMetrics(self, name) for name in engines}

    def text(self) -> bytes:
        """Return the metrics in Prometheus's text format."""
        return generate_latest(self._registry)


class _Gauges(Collector):
    """Numbers of the moment, which are asked of the engines when somebody looks."""

    def __init__(self, engines: Mapping[str, Engine]) -> None:
        self._engines = engines

    def collect(self) -> Iterable[Metric]:
        for name, (text, value) in _GAUGES.items():
            family = GaugeMetricFamily(_PREFIX + name, text, labels=["model_name"])
            for model, engine in self._engines.items():
                family.add_metric([model], value(engine))
            yield family


class ModelMetrics:
    """The metrics of one model."""

    def __init__(self, metrics: Metrics, name: str) -> None:
        self.prompt_tokens = metrics.prompt_tokens.labels(name)
        self.generation_tokens = metrics.generation_tokens.labels(name)
        self.first_token = metrics.first_token.labels(name)
        self.per_token = metrics.per_token.labels(name)
        self.whole = metrics.whole.labels(name)
        self.finished = {
            reason: metrics.finished.labels(name, word) for reason, word in _REASONS.items()
        }

    def start(self) -> Clock:
        """Begin to measure a text."""
        return Clock(self)


class Clock:
    """Measures one text; its methods may be called from any thread."""

    def __init__(self, metrics: ModelMetrics) -> None:
        self._metrics = metrics
        self._start = time.monotonic()
        self._last: float | None = None  # when the last token came
        self._ended = False
        self._lock = threading.Lock()

    def delta(self, delta: Delta) -> None:
        """Count what a step has added."""
        with self._lock:
            if self._ended:
                return
            self._ended = delta.finish_reason is not None
        now = time.monotonic()
        if delta.num_tokens:
            self._metrics.generation_tokens.inc(delta.num_tokens)
            if self._last is None:
                self._metrics.first_token.observe(now - self._start)
            else:
                self._metrics.per_token.observe((now - self._last) / delta.num_tokens)
            self._last = now
        if delta.finish_reason:
            self._metrics.finished[delta.finish_reason].inc()
            self._metrics.whole.observe(now - self._start)

    def abort(self) -> None:
        """Count a text that nobody waits for any more; harmless when it has ended."""
        if self.discard():
            self._metrics.finished["cancelled"].inc()

    def discard(self) -> bool:
        """Count nothing more; return whether the text had not ended."""
        with self._lock:
            ended, self._ended = self._ended, True
        return not ended
