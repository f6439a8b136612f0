"""The metrics that answers are scored by; a new one is one file and one line in `METRICS`."""

from __future__ import annotations

from laterna.errors import LaternaError
from laterna.evaluation.metrics.anls import ANLS
from laterna.evaluation.metrics.base import Metric
from laterna.evaluation.metrics.captions import CAPTIONS
from laterna.evaluation.metrics.chair import CHAIR
from laterna.evaluation.metrics.exact_match import EXACT_MATCH, GQA, LETTER
from laterna.evaluation.metrics.llava_bench import LLAVA_BENCH
from laterna.evaluation.metrics.mm_vet import MM_VET
from laterna.evaluation.metrics.mme import MME
from laterna.evaluation.metrics.multiple_choice import CIRCULAR, MMVP, MMVP_CORRECTED, VLMEVALKIT
from laterna.evaluation.metrics.pope import POPE
from laterna.evaluation.metrics.relaxed_accuracy import RELAXED_ACCURACY
from laterna.evaluation.metrics.scienceqa import SCIENCEQA
from laterna.evaluation.metrics.vqa import TEXTVQA, VQA

METRICS: dict[str, Metric] = {
    "anls": ANLS,
    "captions": CAPTIONS,
    "chair": CHAIR,
    "circular": CIRCULAR,
    "exact_match": EXACT_MATCH,
    "gqa": GQA,
    "letter": LETTER,
    "llava_bench": LLAVA_BENCH,
    "mm_vet": MM_VET,
    "mme": MME,
    "mmvp": MMVP,
    "mmvp_corrected": MMVP_CORRECTED,
    "pope": POPE,
    "relaxed_accuracy": RELAXED_ACCURACY,
    "scienceqa": SCIENCEQA,
    "textvqa": TEXTVQA,
    "vlmevalkit": VLMEVALKIT,
    "vqa": VQA,
}
"""Name to metric."""


def find_metric(name: str) -> Metric:
    """Return the metric of exactly this name; raises LaternaError that lists the names."""
    if name not in METRICS:
        raise LaternaError(f"{name}: no such metric; the metrics are: {', '.join(sorted(METRICS))}")
    return METRICS[name]
