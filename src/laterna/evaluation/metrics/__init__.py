"""The metrics that answers are scored by; a new one is one file and one line in `METRICS`."""

from __future__ import annotations

from laterna.errors import LaternaError
from laterna.evaluation.metrics.base import Metric
from laterna.evaluation.metrics.exact_match import EXACT_MATCH

METRICS: dict[str, Metric] = {"exact_match": EXACT_MATCH}
"""Name to metric."""


def find_metric(name: str) -> Metric:
    """Return the metric of exactly this name; raises LaternaError that lists the names."""
    if name not in METRICS:
        raise LaternaError(f"{name}: no such metric; the metrics are: {', '.join(sorted(METRICS))}")
    return METRICS[name]
