"""What an experiment is: a question, what it is asked of, and what it found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from rich.table import Table

    from laterna.inference.assistant import Assistant


class Subject(NamedTuple):
    """What an experiment looks at."""

    assistant: Assistant
    data: Path
    """Folder of the dataset."""
    limit: int = 0
    """Images at most; 0: all."""
    seed: int = 0
    """Seed of all that the experiment draws by lot."""


class Finding(NamedTuple):
    """What an experiment measured."""

    table: Table
    line: str
    """What was measured, in a few words."""


class Experiment(NamedTuple):
    """A question about assistants, and what answers it."""

    question: str
    minutes: float
    """On two CPU cores, for the nano model and the data that `needs` names, rounded up."""
    needs: str
    """The data that it takes."""
    run: Callable[[Subject], Finding]
    """Measures; raises LaternaError for data or an assistant that it cannot measure."""
