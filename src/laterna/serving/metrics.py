"""Figures of the server for Prometheus, under vLLM's names with our prefix."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from laterna.inference.batching.request import Request
from laterna.inference.engine import Engine

_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
HISTOGRAMS = {
    "time_to_first_token_seconds": "From a request's arrival to its first token.",
    "inter_token_latency_seconds": "Between two tokens of an answer, by its mean.",
    "e2e_request_latency_seconds": "From a request's arrival to its end.",
    "request_queue_time_seconds": "From a request's arrival until it is taken up.",
    "request_prefill_time_seconds": "From then to its first token.",
    "request_decode_time_seconds": "From the first token to the last.",
}


class _Counts(Collector):
    """Reads the engine's own counts when they are asked for."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> list[Metric]:
        """Return gauges and counters as they stand."""
        stats = self._engine.stats()
        gauges = {
            "num_requests_running": ("Requests that are being answered.", stats.running),
            "num_requests_waiting": ("Requests that wait.", stats.waiting),
            "kv_cache_usage_perc": ("Share of the cache in use, 0 to 1.", stats.cache_use),
        }
        counters = {
            "prompt_tokens": ("Tokens of prompts.", stats.prompt_tokens),
            "generation_tokens": ("Tokens of answers.", stats.generation_tokens),
            "prefix_cache_queries": ("Tokens that the cache was asked for.", stats.prompt_tokens),
            "prefix_cache_hits": ("Tokens that it held.", stats.cached_tokens),
            "mm_cache_queries": ("Images that were asked about.", stats.image_queries),
            "mm_cache_hits": ("Images that had been encoded before.", stats.image_hits),
        }
        found: list[Metric] = [
            GaugeMetricFamily(f"laterna:{name}", text, value=value)
            for name, (text, value) in gauges.items()
        ]
        found += [
            CounterMetricFamily(f"laterna:{name}", text, value=value)
            for name, (text, value) in counters.items()
        ]
        ended = CounterMetricFamily(
            "laterna:request_success", "Requests by why they ended.", labels=["finished_reason"]
        )
        for reason, count in stats.finished.items():
            ended.add_metric([reason], count)
        return [*found, ended]


class Metrics:
    """What is counted about requests."""

    media_type = CONTENT_TYPE_LATEST

    def __init__(self, engine: Engine) -> None:
        """Count for one engine; each server has a registry of its own."""
        self._registry = CollectorRegistry()
        self._registry.register(_Counts(engine))
        self._times = {
            name: Histogram(f"laterna:{name}", text, registry=self._registry, buckets=_BUCKETS)
            for name, text in HISTOGRAMS.items()
        }

    def ended(self, request: Request) -> None:
        """Count a request's times, as far as it came."""
        if request.admitted is not None:
            self._see("request_queue_time_seconds", request.admitted - request.arrived)
        if request.answering is None:
            return
        self._see("time_to_first_token_seconds", request.answering - request.arrived)
        if request.admitted is not None:
            self._see("request_prefill_time_seconds", request.answering - request.admitted)
        if request.ended is None:
            return
        writing = request.ended - request.answering
        self._see("e2e_request_latency_seconds", request.ended - request.arrived)
        self._see("request_decode_time_seconds", writing)
        if len(request.tokens) > 1:
            self._see("inter_token_latency_seconds", writing / (len(request.tokens) - 1))

    def page(self) -> bytes:
        """Return all figures as Prometheus reads them."""
        return generate_latest(self._registry)

    def _see(self, name: str, seconds: float) -> None:
        self._times[name].observe(max(0.0, seconds))
