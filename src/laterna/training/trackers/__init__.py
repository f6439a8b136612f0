"""Trackers: programs that plot a run's figures while it trains, one file each.

A recipe names them in `run.report_to`; `metrics.jsonl` has all figures without any. A new one is a
file here with a `Tracker` and a line in `TRACKERS`, by the name of the package that it needs, which
is also our extra in pyproject.toml.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec

from laterna.errors import LaternaError
from laterna.training.telemetry import TrackedRun, Tracker
from laterna.training.trackers.tensorboard import TensorBoardTracker
from laterna.training.trackers.trackio import TrackioTracker

TRACKERS: dict[str, Callable[[TrackedRun], Tracker]] = {
    "tensorboard": TensorBoardTracker,
    "trackio": TrackioTracker,
}
"""By the name of the package that must be installed."""


def require_installed(names: Sequence[str]) -> None:
    """Raise LaternaError for an unknown tracker, and for one whose package is not installed."""
    for name in names:
        if name not in TRACKERS:
            known = ", ".join(TRACKERS)
            raise LaternaError(f"run.report_to: {name}: no such tracker; known are: {known}")
        if find_spec(name) is None:
            raise LaternaError(
                f"run.report_to: {name} is not installed; pip install 'laterna[{name}]', or leave "
                "it out"
            )
