"""How far long work has come: a bar on a terminal, elsewhere a line a minute on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich import progress as bars
from rich.console import Console
from rich.table import Column

EVERY = 60.0
"""Seconds between two lines of a log."""
T = TypeVar("T")


class Progress:
    """One piece of work, and how much of it is done."""

    def __init__(
        self,
        title: str,
        *,
        total: int | None = None,
        done: int = 0,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin to show it. `total` None: not known; `done`: of an earlier run.

        A bar is drawn on `console` (standard error, unless told) where that is a terminal; a quiet
        console shows nothing. `clock` counts seconds.
        """
        self.title, self.total, self._clock = title, total, clock
        self._console = console or Console(stderr=True)
        self._first, self._began = done, clock()
        self._said = self._began
        self._bar: bars.Progress | None = None
        if self._console.is_terminal and not self._console.quiet:
            self._bar = _bar(self._console)
            self._bar.start()
            self._task = self._bar.add_task(title, completed=done, total=total, figures="")

    def update(self, done: int, figures: str = "", *, log: str | None = None) -> None:
        """Say that so much is done, with figures behind it; `log`: other ones in a log's line."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, figures=figures)
        elif not self._console.quiet and self._clock() - self._said >= EVERY:
            self._said = self._clock()
            sys.stderr.write(self._line(done, figures if log is None else log) + "\n")
            sys.stderr.flush()

    def close(self) -> None:
        """Leave a bar as it is."""
        if self._bar is not None:
            self._bar.stop()

    def _line(self, done: int, figures: str) -> str:
        known = f"{done:,}" if self.total is None else f"{done:,} of {self.total:,}"
        parts = [f"{self.title}: {known}"] + [figures] * bool(figures)
        new = done - self._first
        if self.total is not None and new > 0:
            seconds = (self._said - self._began) / new * (self.total - done)
            parts.append(f"{spelled(seconds)} left")
        return " · ".join(parts)


@contextmanager
def shown_progress(
    title: str, *, total: int | None = None, console: Console | None = None
) -> Iterator[Progress]:
    """Show a piece of work while the block lasts."""
    shown = Progress(title, total=total, console=console)
    try:
        yield shown
    finally:
        shown.close()


def followed(items: Iterable[T], title: str, *, total: int | None = None) -> Iterator[T]:
    """Pass items on and show how many there were."""
    with shown_progress(title, total=total) as shown:
        for number, item in enumerate(items, start=1):
            yield item
            shown.update(number)


def spelled(seconds: float) -> str:
    """Return a duration in the two units that matter: `35 s`, `4 min 10 s`, `2 h 5 min`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"


def _bar(console: Console) -> bars.Progress:
    return bars.Progress(
        _words("{task.description}"),
        bars.BarColumn(bar_width=None),
        bars.MofNCompleteColumn(),
        _words("{task.fields[figures]}"),
        _words("ETA"),
        bars.TimeRemainingColumn(compact=True),
        console=console,
        expand=True,
    )


def _words(text: str) -> bars.TextColumn:
    return bars.TextColumn(text, table_column=Column(no_wrap=True))
