"""What a question asks about: the visual properties, by its words.

The rule: a question has every property that one of its rules finds, with two exceptions. A
question for the whole image ("Describe the image in detail") is a `description` and nothing
else, and one whose answer lies beyond the image ("Why might he wave?") is `background` and
nothing else. A what, which or who question that asks for none of the others asks which thing is
there: `existence`. What no rule finds is `other`; nothing is guessed.
"""

from __future__ import annotations

import re

from laterna.analysis.mentions import WORDS
from laterna.records import DEFAULT_IMAGE_TOKEN
from laterna.scenes.vocabulary import COLOURS, read_patterns

Property = str
"""A key of `PROPERTIES`."""
PROPERTIES: dict[Property, str] = {
    "existence": "which things are there, and of what kind",
    "count": "how many there are",
    "colour": "colours of things or of the picture",
    "place": "where a thing is, or what place is shown",
    "relation": "where things are to each other, and how they compare",
    "action": "what someone or something does",
    "text": "written words, numbers and names",
    "texture": "texture, pattern and material",
    "lighting": "light, time of day and weather",
    "emotion": "feelings, expressions and mood",
    "background": "reasons, guesses and knowledge beyond the picture",
    "description": "the picture as a whole",
    "other": "what no rule finds",
}
"""Every property and what its questions ask for, in the order of the tables."""

_DESCRIBING = WORDS.describing
_GENERAL = _DESCRIBING | WORDS.general
_COLOUR = "|".join([*sorted(COLOURS - {"orange"}), "(?<!an )(?<!the )orange"])
_ASKS = read_patterns(__package__, "properties", some_colour=_COLOUR)
QUESTIONS = read_patterns(__package__, "questions")
"""Wordings by which questions, captions and answers are read."""
_WORDS = re.compile(r"[a-z]+")


def properties_of(question: str) -> tuple[Property, ...]:
    """Return what a question asks about, in the order of `PROPERTIES`; never nothing."""
    text = bare_question(question)
    words = set(_WORDS.findall(text))
    if words & _DESCRIBING and words <= _GENERAL:
        return ("description",)
    if _ASKS["background"].search(text):
        return ("background",)
    found: set[Property] = {
        name for name in PROPERTIES if name in _ASKS and _ASKS[name].search(text)
    }
    if not found:
        found = {"existence" if QUESTIONS["asks_for_a_thing"].match(text) else "other"}
    return tuple(name for name in PROPERTIES if name in found)


def bare_question(question: str) -> str:
    """Return the question's own words in lower case: no image, no politeness, no answer form."""
    text = " ".join(question.replace(DEFAULT_IMAGE_TOKEN, " ").lower().split())
    return QUESTIONS["polite"].sub("", QUESTIONS["answer_form"].sub("", text).strip())
