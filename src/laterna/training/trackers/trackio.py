"""Trackio, Hugging Face's local tracker: `trackio show` draws what it keeps.

Written against the public interface of trackio 0.3 (`init`, `log`, `finish`) and tested with a
stand-in that has the same three functions, not with trackio itself.
"""

from __future__ import annotations

import importlib
from typing import Any

import msgspec

from laterna.training.telemetry import TrackedRun
from laterna.training.throughput import StepFigures, named_figures


class TrackioTracker:
    """A run in the project that has the recipe's name, with the recipe as its configuration.

    A resumed run is the same run to trackio; steps that were logged before the run was killed, and
    are then taken again, are in it twice, with the same values.
    """

    def __init__(self, run: TrackedRun) -> None:
        # Imported here: it is an extra.
        self._trackio: Any = importlib.import_module("trackio")
        self._trackio.init(
            project=run.recipe.name,
            name=run.title,
            config=msgspec.to_builtins(run.recipe),
            resume="allow",
        )

    def step(self, figures: StepFigures) -> None:
        """Log a step's figures."""
        self._trackio.log(named_figures(figures), step=figures.step)

    def close(self) -> None:
        """Hand over what is left."""
        self._trackio.finish()
