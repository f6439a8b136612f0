"""Teachers: whoever answers a proxy text with instruction data.

Adding one is a file with a class that has `complete`, and a line in `TEACHERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from laterna.errors import LaternaError
from laterna.records import Kind, Message, Reply
from laterna.synthesis.teachers.scribe import Scribe


class Teacher(Protocol):
    """Answers a chat that ends with a picture's proxy text."""

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return the reply to system message, examples and context, in that order."""


TEACHERS: dict[str, Callable[[Kind, Iterable[str], int], Teacher]] = {"scribe": Scribe}
"""Name to what makes the teacher of one kind: (kind, the dataset's categories, seed)."""


def make_teacher(name: str, kind: Kind, categories: Iterable[str], seed: int) -> Teacher:
    """Return the named teacher for one kind; an unknown name's error lists the names."""
    if name not in TEACHERS:
        raise LaternaError(f"unknown teacher {name!r}; known are: {', '.join(TEACHERS)}")
    return TEACHERS[name](kind, categories, seed)
