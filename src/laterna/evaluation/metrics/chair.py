"""CHAIR: how much of what a caption names is not in the image (80 kinds of COCO).

The references of a question are the people's captions of its image, and its field `objects` names
the annotated kinds, with commas between: what either names is in the image. A caption's score is 1
when it names nothing else. A task whose images can hold only some of the 80 kinds names these in
the field `kinds`, and words for the others are no mentions (an orange cup is no orange).

`chair_s` is the share of captions with something absent, `chair_i` the share of all mentions that
are; the latter is not a number where nothing is mentioned.

Words are lower-case and singular by the rules of pattern's `singularize`, which are not always
English (`glass` becomes `glas`) but are what the published figures rest on.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib.resources import files
from typing import NamedTuple

from laterna.errors import LaternaError
from laterna.evaluation.metrics import english
from laterna.evaluation.metrics.base import Metric, each, mean, required_field
from laterna.evaluation.metrics.pope import ratio
from laterna.records import Answer, Question

_WORDS = tomllib.loads(files(__package__).joinpath("chair_words.toml").read_text("utf-8"))
_KIND_OF = {word: kind for kind, own in _WORDS["objects"].items() for word in own}
_PAIRS = _WORDS["compounds"]
_COMPOUNDS: dict[str, str] = {
    **{pair: pair for pair in _PAIRS["pairs"]},
    **{f"{age} {animal}": animal for animal in _PAIRS["animals"] for age in ("baby", "adult")},
    **{f"passenger {vehicle}": vehicle for vehicle in _PAIRS["vehicles"]},
    **_PAIRS["renamed"],
}
_SINGULAR = _WORDS["singular"]
_IRREGULAR: dict[str, str] = _SINGULAR["irregular"]
_ENDINGS = [
    (re.compile(f"({after}){ending}$"), rf"\g<1>{becomes}")
    for after, ending, becomes in _SINGULAR["endings"]
]
_IE = tuple(f"{word}s" for word in _SINGULAR["ie"])


class Mention(NamedTuple):
    """A word of a caption that names one of the 80 kinds."""

    word: str
    kind: str


@lru_cache(maxsize=1 << 15)
def singular(word: str) -> str:
    """Return the singular of a lower-case word, as pattern's `singularize` gives it."""
    first, _, rest = word.partition("-")
    if rest.partition("-")[0] in _SINGULAR["prepositions"]:
        return f"{singular(first)}-{rest}"
    if word.endswith("'"):
        return f"{singular(word[:-1])}'s"
    if any(known.endswith(word) for known in _SINGULAR["unchanged"]):
        return word
    if word.endswith(_IE):
        return word
    for plural, one in _IRREGULAR.items():
        if word.endswith(plural):
            return word.removesuffix(plural) + one
    for form, change in _ENDINGS:
        if form.search(word):
            return form.sub(change, word)
    return word


def caption_words(caption: str) -> list[str]:
    """Return a caption's words: singular, two that count as one joined."""
    return list(_joined([singular(word) for word in english.words(caption)]))


def is_kind(name: str) -> bool:
    """Tell whether CHAIR's word list knows a kind of this name."""
    return name in _KIND_OF


@lru_cache(maxsize=1 << 16)
def mentions(caption: str, kinds: str = "") -> tuple[Mention, ...]:
    """Return what a caption names, in order, each as often as it is named.

    A seat is no chair where a toilet is named. `kinds` are the only ones that count, with commas
    between; empty: all 80.
    """
    counted = {_KIND_OF.get(name.strip()) for name in kinds.split(",")} if kinds else None
    words = caption_words(caption)
    passed = "seat" if "toilet" in words else ""
    found = [Mention(one, _KIND_OF[one]) for one in words if one in _KIND_OF and one != passed]
    return tuple(one for one in found if counted is None or one.kind in counted)


def absent(caption: str, present: frozenset[str], kinds: str = "") -> list[Mention]:
    """Return what a caption names that is not among the kinds that are present."""
    return [mention for mention in mentions(caption, kinds) if mention.kind not in present]


def _joined(single: Sequence[str]) -> Iterator[str]:
    place = 0
    while place < len(single):
        pair = " ".join(single[place : place + 2])
        yield _COMPOUNDS.get(pair, single[place])
        place += 2 if pair in _COMPOUNDS else 1


def _present(question: Question) -> frozenset[str]:
    """Return the kinds in a question's image, by its annotations and its references."""
    names = [name.strip() for name in required_field(question, "objects").split(",")]
    unknown = [name for name in names if name and name not in _KIND_OF]
    if unknown:
        raise LaternaError(
            f"question {question.id}: {unknown[0]!r} in its field 'objects' is none of the 80 "
            f"kinds of COCO that CHAIR knows"
        )
    annotated = {_KIND_OF[name] for name in names if name}
    told = {mention.kind for reference in question.references for mention in mentions(reference)}
    return frozenset(annotated | told)


def _score(question: Question, caption: str) -> float:
    return float(not _absent(question, caption))


def _absent(question: Question, caption: str) -> list[Mention]:
    return absent(caption, _present(question), question.fields.get("kinds", ""))


def _summarize(answers: Sequence[Answer]) -> dict[str, float]:
    named = sum(
        len(mentions(answer.text, answer.question.fields.get("kinds", ""))) for answer in answers
    )
    wrong = sum(len(_absent(answer.question, answer.text)) for answer in answers)
    faithful = mean([answer.score for answer in answers])
    return {
        "faithful": faithful,
        "chair_s": 1 - faithful,
        "chair_i": ratio(wrong, named),
        "mentions": named,
    }


CHAIR = Metric(
    definition="LisaAnne/Hallucination utils/chair.py at 6e4d33c with clips/pattern singularize at "
    f"d25511f; words: {english.TOKENIZER}",
    score=each(_score),
    summarize=_summarize,
)
