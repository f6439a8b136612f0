"""What the runs of `training.py` come to: medians over repetitions, ratios, and a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import msgspec

from training_sides import Measured

PASSES = (1, 2, 5)
"""Passes over the timed records that the filling of the feature cache is spread over."""
HEADINGS = (
    "",
    "target tokens a CPU second",
    "× the baseline's",
    "× by the clock",
    "peak memory",
    "less imports",
    "less imports and weights",
)
Of = Callable[[Measured], float]


def rate(one: Measured) -> float:
    """Return target tokens a CPU second."""
    return one.targets / one.cpu_seconds


def clock_rate(one: Measured) -> float:
    """Return target tokens a second by the clock."""
    return one.targets / one.seconds


def middle(runs: Sequence[Measured], of: Of) -> float:
    """Return the median of something over repetitions."""
    return float(median(of(one) for one in runs))


def figures(runs: Sequence[Measured]) -> dict[str, Any]:
    """Sum up the repetitions of a run: medians, and the rate of each."""
    told: dict[str, Any] = {
        "targets_a_cpu_second": round(middle(runs, rate), 2),
        "targets_a_cpu_second_of_each_run": [round(rate(one), 2) for one in runs],
        "targets_a_second": round(middle(runs, clock_rate), 2),
        "memory_mib": {
            "imported": round(middle(runs, lambda one: one.memory.imported)),
            "loaded": round(middle(runs, lambda one: one.memory.loaded)),
            "peak": round(middle(runs, lambda one: one.memory.peak)),
            "whole_process": round(middle(runs, lambda one: one.memory.whole)),
        },
    }
    for name in ("mfu", "vision_share", "outside_share"):
        if getattr(runs[-1], name) is not None:
            told[name] = round(getattr(runs[-1], name), 4)
    return told


def beside(ours: Sequence[Measured], others: Sequence[Measured]) -> dict[str, float]:
    """Return ours over the others': rates, and peak memory with and without what was there before.

    Memory less imports is what weights, gradients, moments and activations take; less weights too,
    all that training adds to a loaded model.
    """
    of: dict[str, Of] = {
        "by_cpu_seconds": rate,
        "by_the_clock": clock_rate,
        "peak_memory": lambda one: one.memory.peak,
        "peak_memory_less_imports": lambda one: one.memory.peak - one.memory.imported,
        "peak_memory_less_imports_and_weights": lambda one: one.memory.peak - one.memory.loaded,
        "whole_process": lambda one: one.memory.whole,
    }
    return {name: round(middle(ours, one) / middle(others, one), 3) for name, one in of.items()}


def apart(one: Measured, other: Measured) -> float:
    """Return the largest difference of two loss curves."""
    return max(abs(a - b) for a, b in zip(one.losses, other.losses, strict=True))


def cached_figures(
    cached: Sequence[Measured], baseline: Sequence[Measured], steps: Sequence[Sequence[Any]]
) -> dict[str, Any]:
    """Count the filling of the cache apart, and spread over some passes over the timed `steps`."""
    filling = cached[-1].filling
    assert filling is not None
    shown = {name for step in steps for sample in step for name in sample.images}
    filled = filling.cpu_seconds * len(shown) / filling.images
    targets, seconds = cached[-1].targets, middle(cached, lambda one: one.cpu_seconds)
    base = middle(baseline, rate)
    return {
        **figures(cached),
        "beside_baseline_filling_apart": beside(cached, baseline),
        "filling": msgspec.to_builtins(filling),
        "images_of_timed_steps": len(shown),
        "by_cpu_seconds_beside_baseline_filling_spread_over_passes": {
            str(passes): round(passes * targets / (passes * seconds + filled) / base, 3)
            for passes in PASSES
        },
    }


def table(shape: str, stages: dict[str, Any]) -> str:
    """Return the main figures as a Markdown table."""
    lines = [f"| {' | '.join(HEADINGS)} |", "|---" * len(HEADINGS) + "|"]
    for stage, found in stages.items():
        batch, theirs, ours = found["baseline_batch"], found["baseline"], found["ours"]
        lines.append(_row(f"{shape}, {stage}: baseline, batch size {batch}", theirs, {}))
        lines.append(_row("ours", ours, found["ours_beside_baseline"]))
        for name, one in found.get("without", {}).items():
            lines.append(_row(f"ours without {name}", one, one["beside_baseline"]))
        for name, one in found.get("sparing", {}).items():
            lines.append(_row(f"ours with {name}", one, one["beside_baseline"]))
        if "cached_features" in found:
            one = found["cached_features"]
            name = "ours with cached features, filling apart"
            lines.append(_row(name, one, one["beside_baseline_filling_apart"]))
            spread = one["by_cpu_seconds_beside_baseline_filling_spread_over_passes"]
            said = ", ".join(f"{ratio} over {passes}" for passes, ratio in spread.items())
            lines.append(f"filling spread over passes: {said}")
        lines.append(f"losses differ by {found['largest_difference_of_losses']:.1e} at most")
    return "\n".join(lines)


def _row(name: str, one: dict[str, Any], ratios: dict[str, float]) -> str:
    names = (
        "by_cpu_seconds",
        "by_the_clock",
        "peak_memory",
        "peak_memory_less_imports",
        "peak_memory_less_imports_and_weights",
    )
    cells = [f"{ratios[key]:.2f}" if ratios else "" for key in names]
    if not ratios:
        cells[2] = f"{one['memory_mib']['peak']:,} MiB"
    return f"| {name} | {one['targets_a_cpu_second']:,.0f} | {' | '.join(cells)} |"
