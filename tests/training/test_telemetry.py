from __future__ import annotations

import re
from functools import partial
from io import StringIO
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from laterna import progress
from laterna.training.telemetry import MetricsFile, StageBar, read_metrics, summary, watched
from laterna.training.throughput import StepFigures

FIGURES = [
    StepFigures(
        step=step,
        loss=2.0 / step,
        lr=0.1,
        grad_norm=1.0,
        target_tokens=100,
        tokens=300,
        padding=30,
        images=8,
        seconds=0.5,
        model_seconds=0.4,
        vision_seconds=0.1,
        flops=1e6,
        mfu=0.1 * step,
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
    assert "loss 1.222 · 200 targets/s · MFU 20.0%" in out.getvalue()
    assert "600 tokens/s · 16 images/s · padding 10.0%" in out.getvalue()


def test_a_stage_is_summed_up_in_a_line() -> None:
    assert summary(FIGURES) == (
        "3 steps in 2 s · 200 targets/s · 600 tokens/s · 16 images/s · MFU 20.0% · "
        "padding 10.0% · vision tower 20.0% of a step · loop 20.0%"
    )
    unknown = [msgspec.structs.replace(FIGURES[0], mfu=None, flops=0.0)]
    assert "MFU not known" in summary(unknown)


def test_a_file_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"step":1,"loss":2.0,"lr":0.1,"grad_norm":1.0,"target_tokens":9,"tokens":13,'
        '"images":1,"seconds":0.5}\n'
    )
    [figures] = read_metrics(path)
    assert (figures.flops, figures.mfu, figures.vision_seconds) == (0.0, None, 0.0)


def test_a_log_gets_the_stages_step_loss_rate_and_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.0)  # a line a step
    monkeypatch.setattr(progress.Progress, "_keep_saying", lambda _: None)  # and no other
    bar = StageBar("stage align", Console(file=StringIO()), done=0, total=3)
    bar.step(FIGURES[0])
    bar.step(FIGURES[1])
    bar.close()
    said = capsys.readouterr().err.splitlines()
    assert [re.sub(r"[0-9,.]+ a second", "N a second", line) for line in said] == [
        "stage align: 1 of 3 · loss 2.000 · learning rate 1.00e-01 · N a second · 0 s left",
        "stage align: 2 of 3 · loss 1.500 · learning rate 1.00e-01 · N a second · 0 s left",
    ]
