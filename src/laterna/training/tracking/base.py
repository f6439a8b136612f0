"""What a tracker is, and what it is told of the run that it follows."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol

from laterna.recipe import Recipe, StageName
from laterna.training.figures import StepFigures


class TrackedRun(NamedTuple):
    """One stage of a run, as trackers know it."""

    recipe: Recipe
    stage: StageName
    out: Path
    """The checkpoint that the stage will become."""
    digest: str
    """Digest of all that decides what the stage learns; the same when it goes on."""
    done: int
    """Steps done before: the run goes on after them, whatever was tracked beyond."""

    @property
    def title(self) -> str:
        """A name that no other run has: its stage, and the beginning of its digest."""
        return f"{self.stage}-{self.digest[:8]}"


class Tracker(Protocol):
    """Follows a run on its first rank: told every step when it is done, closed at the end."""

    def step(self, figures: StepFigures) -> None:
        """Take a step's figures."""
        ...

    def close(self) -> None:
        """Write what is left and let go; also when the run ends by an error."""
        ...
