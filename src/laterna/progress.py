"""How far long work has come: a bar on a terminal, elsewhere a line a minute on standard error."""

from __future__ import annotations

import sys
import threading
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
        self._said, self._last = self._began, (done, "")
        self._bar: bars.Progress | None = None
        self._closed, self._saying = threading.Event(), threading.Lock()
        if self._console.quiet:
            return
        if self._console.is_terminal:
            self._bar = _bar(self._console)
            self._bar.start()
            self._task = self._bar.add_task(title, completed=done, total=total, figures="")
        else:
            threading.Thread(target=self._keep_saying, daemon=True).start()

    def expect(self, total: int | None) -> None:
        """Say how much it is in all, once that is known."""
        self.total = total
        if self._bar is not None:
            self._bar.update(self._task, total=total)

    def update(self, done: int, figures: str = "", *, log: str | None = None) -> None:
        """Say that so much is done, with figures behind it; `log`: other ones in a log's line."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, figures=figures)
        elif not self._console.quiet:
            self._last = done, figures if log is None else log
            self._say()

    def close(self) -> None:
        """Leave a bar as it is; no line comes any more."""
        with self._saying:
            self._closed.set()
        if self._bar is not None:
            self._bar.stop()

    def _keep_saying(self) -> None:
        """Say how far it is where nothing moves for a minute: it waits, and has not died."""
        while not self._closed.wait(max(EVERY / 60, self._said + EVERY - self._clock())):
            self._say()

    def _say(self) -> None:
        with self._saying:
            if self._closed.is_set() or self._clock() - self._said < EVERY:
                return
            self._said = self._clock()
            sys.stderr.write(self._line(*self._last) + "\n")
            sys.stderr.flush()

    def _line(self, done: int, figures: str) -> str:
        known = f"{done:,}" if self.total is None else f"{done:,} of {self.total:,}"
        parts = [f"{self.title}: {known}"] + [figures] * bool(figures)
        new, seconds = done - self._first, self._said - self._began
        if new > 0:
            parts.append(_rate(new, seconds))
            if self.total is not None:
                parts.append(f"{spelled(seconds / new * (self.total - done))} left")
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


def _rate(done: int, seconds: float) -> str:
    """Return how much is done in the shortest of second, minute and hour that one piece fits in."""
    for unit, length in (("second", 1), ("minute", 60)):
        if done * length >= seconds:
            return f"{done * length / seconds:,.1f} a {unit}"
    return f"{done * 3600 / seconds:,.1f} an hour"


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
