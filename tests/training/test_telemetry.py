from __future__ import annotations

from functools import partial
from io import StringIO
from pathlib import Path

from rich.console import Console

from laterna.training.figures import StepFigures
from laterna.training.telemetry import MetricsFile, StageBar, read_metrics, watched

FIGURES = [
    StepFigures(
        step=step,
        loss=2.0 / step,
        lr=0.1,
        grad_norm=1.0,
        target_tokens=100,
        tokens=300,
        pictures=8,
        seconds=0.5,
    )
    for step in (1, 2, 3)
]


def test_every_step_is_shown_and_kept_as_it_happens(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    out = StringIO()
    console = Console(file=out, width=80, force_terminal=True)
    seen = []
    followers = [
        partial(MetricsFile, path),
        partial(StageBar, "stage align", console, done=0, total=3),
    ]
    for figures in watched(FIGURES, followers):
        seen.append(figures)
        assert read_metrics(path) == seen
    assert seen == FIGURES
    assert "loss 1.777 · 200 targets/s · 16 pictures/s" in out.getvalue()
