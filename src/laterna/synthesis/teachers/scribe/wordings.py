"""The words in which the offline teacher writes: `wordings.toml` tells their fields."""

from __future__ import annotations

from importlib import resources

import msgspec

from laterna.records import Record


class Thought(Record):
    """A question about a use or a nature, and why some things meet it."""

    questions: tuple[str, ...]
    because: str
    """Ends the answer; true of one thing and of several."""


class Request(Record):
    """What is asked for, and why it is declined."""

    requests: tuple[str, ...]
    act: str
    because: str


class Inference(Record):
    """A step beyond what captions tell, and what allows it."""

    exchanges: tuple[tuple[str, str], ...]
    """Questions with their answers."""
    verbs: str = ""
    cues: str = ""
    of: str = ""


class Absent(Record):
    """What may be said to be absent, and how."""

    alike: tuple[frozenset[str], ...]
    never_sure: frozenset[str]
    plural_only: frozenset[str]


class Wordings(Record):
    """All of the file; `thoughts` and `requests` by "kinds" (supercategories) and "things"."""

    questions: dict[str, tuple[str, ...]]
    answers: dict[str, tuple[str, ...]]
    nouns: dict[str, str]
    absent: Absent
    thoughts: dict[str, dict[str, Thought]]
    requests: dict[str, dict[str, Request]]
    inferences: tuple[Inference, ...]


WORDINGS = msgspec.toml.decode(
    resources.files(__package__).joinpath("wordings.toml").read_bytes(), type=Wordings
)
QUESTIONS, ANSWERS = WORDINGS.questions, WORDINGS.answers
