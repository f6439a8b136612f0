"""Teachers: whoever answers a proxy text with instruction data.

Those that compose here, at no cost, stand in `TEACHERS`; those whose answers cost something and
are kept in a ledger, in `asked.py`. Adding one is a file with a class that has `complete`, and a
line in the dictionary.
"""

from __future__ import annotations

from collections.abc import Callable

from laterna.errors import LaternaError
from laterna.records import Kind
from laterna.scenes.survey import Survey
from laterna.synthesis.teachers.base import Teacher
from laterna.synthesis.teachers.scribe import Scribe

__all__ = ["TEACHERS", "Teacher", "make_teacher"]

TEACHERS: dict[str, Callable[[Kind, Survey, int], Teacher]] = {"scribe": Scribe}
"""Name to what makes the teacher of one kind: (kind, what the dataset says, seed)."""


def make_teacher(name: str, kind: Kind, survey: Survey, seed: int) -> Teacher:
    """Return the named teacher for one kind; an unknown name's error lists the names."""
    if name not in TEACHERS:
        raise LaternaError(f"unknown teacher {name!r}; known are: {', '.join(TEACHERS)}")
    return TEACHERS[name](kind, survey, seed)
