"""What a run shows while it trains, and what it keeps: a progress bar and `metrics.jsonl`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

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

from laterna.training.figures import StepFigures
from laterna.training.tracking.base import Tracker

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


class StageBar:
    """A stage on a bar: the loss, how many target tokens and pictures pass a second, the ETA."""

    def __init__(self, title: str, console: Console, *, done: int, total: int) -> None:
        self._console = console
        self._smooth: _Smooth | None = None
        self._skipped = 0
        self._bar = progress_bar(console)
        self._bar.start()
        self._task = self._bar.add_task(title, completed=done, total=total, figures="")

    def step(self, figures: StepFigures) -> None:
        """Show a step, and say when steps before it were skipped."""
        smooth = _Smooth(figures) if self._smooth is None else self._smooth.after(figures)
        if figures.skipped > self._skipped:
            self._console.print(
                f"before step {figures.step}: loss or gradient not finite, "
                f"{figures.skipped} steps skipped so far"
            )
        self._smooth, self._skipped = smooth, figures.skipped
        self._bar.update(self._task, completed=figures.step, figures=smooth.text())

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.stop()


class MetricsFile:
    """`metrics.jsonl`: a line a step, written as soon as it is done, for who reads along."""

    def __init__(self, path: Path) -> None:
        self._lines = path.open("ab", buffering=0)

    def step(self, figures: StepFigures) -> None:
        """Add a line."""
        self._lines.write(msgspec.json.encode(figures) + b"\n")

    def close(self) -> None:
        """Close the file."""
        self._lines.close()


def watched(
    steps: Iterable[StepFigures], openers: Iterable[Callable[[], Tracker]]
) -> Iterator[StepFigures]:
    """Pass the steps on, telling each to the trackers that `openers` open, in their order."""
    with ExitStack() as stack:
        trackers = [stack.enter_context(closing(open_one())) for open_one in openers]
        for figures in steps:
            for tracker in trackers:
                tracker.step(figures)
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
