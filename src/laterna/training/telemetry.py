"""What a run shows while it trains, and what it keeps: a progress bar and `metrics.jsonl`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column

from laterna.training.loop import StepFigures

SMOOTHING = 0.9
"""Weight of the past in the loss and speeds that the bar shows."""


def progress_bar(console: Console) -> Progress:
    """Return Laterna's progress bar, with room for figures at its end."""
    return Progress(
        _words("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        _words("{task.fields[figures]}"),
        _words("ETA"),
        TimeRemainingColumn(compact=True),
        console=console,
        expand=True,
    )


class StageBar(NamedTuple):
    """A stage as the bar shows it."""

    title: str
    done: int
    """Steps done before."""
    total: int
    console: Console


def watched(steps: Iterable[StepFigures], stage: StageBar, metrics: Path) -> Iterator[StepFigures]:
    """Pass the steps on, showing them on a bar and adding each as a line to `metrics`.

    The bar shows the loss and how many target tokens and pictures pass a second. A line is
    written as soon as its step is done, so that a run can be followed while it trains.
    """
    smooth: _Smooth | None = None
    skipped = 0
    with progress_bar(stage.console) as bar, metrics.open("ab", buffering=0) as lines:
        task = bar.add_task(stage.title, completed=stage.done, total=stage.total, figures="")
        for figures in steps:
            lines.write(msgspec.json.encode(figures) + b"\n")
            smooth = _Smooth(figures) if smooth is None else smooth.after(figures)
            if figures.skipped > skipped:
                stage.console.print(
                    f"before step {figures.step}: loss or gradient not finite, "
                    f"{figures.skipped} steps skipped so far"
                )
            skipped = figures.skipped
            bar.update(task, completed=figures.step, figures=smooth.text())
            yield figures


def read_metrics(path: Path) -> list[StepFigures]:
    """Read a run's `metrics.jsonl`."""
    return msgspec.json.decode(
        b"[" + b",".join(path.read_bytes().splitlines()) + b"]", type=list[StepFigures]
    )


def _words(text: str) -> TextColumn:
    return TextColumn(text, table_column=Column(no_wrap=True))


class _Smooth:
    """The bar's figures, averaged over the last steps."""

    def __init__(self, figures: StepFigures) -> None:
        self.loss = figures.loss
        self.targets = float(figures.target_tokens)
        self.pictures = float(figures.pictures)
        self.seconds = figures.seconds

    def after(self, figures: StepFigures) -> _Smooth:
        self.loss = _mix(self.loss, figures.loss)
        self.targets = _mix(self.targets, figures.target_tokens)
        self.pictures = _mix(self.pictures, figures.pictures)
        self.seconds = _mix(self.seconds, figures.seconds)
        return self

    def text(self) -> str:
        return (
            f"loss {self.loss:.3f} · {self.targets / self.seconds:,.0f} targets/s · "
            f"{self.pictures / self.seconds:,.0f} pictures/s"
        )


def _mix(past: float, now: float) -> float:
    return SMOOTHING * past + (1 - SMOOTHING) * now
