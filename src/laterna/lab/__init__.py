"""Experiments on assistants; a new one is one file and one line in `EXPERIMENTS`."""

from __future__ import annotations

from laterna.choices import late
from laterna.lab.experiment import Experiment, Finding, Subject

__all__ = ["EXPERIMENTS", "Experiment", "Finding", "Subject"]

EXPERIMENTS: dict[str, Experiment] = {
    "blind-spots": Experiment(
        question="How well does it answer about what the text proxy leaves out?",
        minutes=1,
        needs="500 images of the tabletop world",
        run=late("laterna.lab.blind_spots:run"),
    ),
}
"""Name to experiment; their own modules are imported when they run."""
