"""What a run shows while it trains, and what it keeps: its bar, `metrics.jsonl`, and trackers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec
from rich.console import Console

from laterna.progress import Progress
from laterna.recipe import Recipe, StageName
from laterna.training.throughput import Speeds, StepFigures, Validation, speeds

SHOWN = 80
"""Characters of a validation record's prompt and answers in the log; `metrics.jsonl` has all."""
LAST = 20
"""Steps over which the bar's figures are averaged."""


class TrackedRun(NamedTuple):
    """One stage of a run, as trackers know it."""

    recipe: Recipe
    stage: StageName
    out: Path
    """The checkpoint that the stage will become."""
    digest: str
    """Digest of all that decides what the stage learns; the same after a restart."""
    done: int
    """Steps done before; the run continues after them, even if more were tracked."""

    @property
    def title(self) -> str:
        """A name that no other run has: its stage, and the beginning of its digest."""
        return f"{self.stage}-{self.digest[:8]}"


class Tracker(Protocol):
    """Follows a run on its first rank: gets each step's figures, and is closed at the end."""

    def step(self, figures: StepFigures) -> None:
        """Take a step's figures."""
        ...

    def close(self) -> None:
        """Write what is left; also called when the run ends by an error."""
        ...


class StageBar:
    """A stage's progress bar: its loss, and below that its speed, over its last steps."""

    def __init__(self, title: str, console: Console, *, done: int, total: int) -> None:
        self._console = console
        self._last: deque[StepFigures] = deque(maxlen=LAST)
        self._skipped = 0
        self._progress = Progress(title, total=total, done=done, console=console)

    def step(self, figures: StepFigures) -> None:
        """Show a step, and how many steps before it were skipped."""
        self._last.append(figures)
        if figures.skipped + figures.empty > self._skipped:
            skips = skipped_so_far(figures.skipped, figures.empty)
            self._console.print(f"before step {figures.step}: {skips}", markup=False)
        if figures.validation is not None:
            for line in validation_lines(figures.step, figures.validation):
                self._console.print(line, soft_wrap=True, markup=False, highlight=False)
        self._skipped = figures.skipped + figures.empty
        loss = sum(step.loss for step in self._last) / len(self._last)
        fast = speeds(self._last)
        shown = f"loss {loss:.3f} · {fast.target_tokens:,.0f} targets/s · {_mfu(fast)}\n"
        shown += f"{fast.tokens:,.0f} tokens/s · {fast.images:,.0f} images/s · "
        shown += f"padding {fast.padding:.1%}"
        log = f"loss {loss:.3f} · learning rate {figures.lr:.2e}"
        self._progress.update(figures.step, shown, log=log)

    def close(self) -> None:
        """End the bar."""
        self._progress.close()


class MetricsFile:
    """`metrics.jsonl`: a line for each step, written as soon as it is done."""

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
    """Yield the steps, each after the trackers that `openers` open have got it, in their order."""
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


def skipped_so_far(skipped: int, empty: int) -> str:
    """Return how many steps of a stage changed nothing, and why; counts as in `StepFigures`."""
    reasons = {
        "loss or gradient not finite": skipped,
        "no record left, for their images are missing or cannot be read": empty,
    }
    found = ((reason, count) for reason, count in reasons.items() if count)
    return "; ".join(f"{reason}, {count} steps skipped so far" for reason, count in found)


def validation_lines(step: int, found: Validation) -> Iterator[str]:
    """Yield the lines that show a validation to people."""
    loss = "not finite" if found.loss is None else f"{found.loss:.3f}"
    spent = f"({found.seconds:.1f} s)"
    yield f"step {step:,}: validation loss {loss} over {found.records:,} records {spent}"
    for one in found.answers:
        prompt, answer, truth = (_short(text) for text in (one.prompt, one.answer, one.truth))
        yield f"  {one.id} {prompt} → {answer} (in the data: {truth})"


def _short(text: str) -> str:
    """Return a text in one line, its middle left out where it is long."""
    text = " ".join(text.split())
    return text if len(text) <= SHOWN else f"{text[: SHOWN // 2]} … {text[-SHOWN // 2 :]}"


def summary(steps: Sequence[StepFigures]) -> str:
    """Sum a stage's steps up in a line: how fast they were, and where the time went."""
    found = speeds(steps)
    return (
        f"{len(steps):,} steps in {found.seconds:,.0f} s · {found.target_tokens:,.0f} targets/s · "
        f"{found.tokens:,.0f} tokens/s · {found.images:,.0f} images/s · {_mfu(found)} · "
        f"padding {found.padding:.1%} · vision tower {found.vision:.1%} of a step · "
        f"loop {found.loop:.1%}"
    )


def _mfu(found: Speeds) -> str:
    return "MFU not known" if found.mfu is None else f"MFU {found.mfu:.1%}"
