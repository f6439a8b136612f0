"""The words in which questions are put, shared by the offline teacher and by the evaluation.

Fields of the phrases: {a_thing} "a dog", {thing} "dog", {things} "dogs", {colour} "red",
{place} "at the top left", {relation} "to the left of", {other} "cup".
"""

from __future__ import annotations

SHORT_ANSWER = " Answer briefly."
"""Ends a question that wants the bare answer (LLaVA-1.5 has such a suffix for the same reason)."""

EXISTENCE_QUESTIONS = (
    "Is there {a_thing} in the picture?",
    "Can you see {a_thing}?",
    "Does the picture show {a_thing}?",
    "Is {a_thing} visible here?",
)
COUNT_QUESTIONS = (
    "How many {things} are there?",
    "How many {things} can you see?",
    "What is the number of {things} in the picture?",
    "Count the {things}. How many are there?",
)
COLOUR_QUESTIONS = (
    "What colour is the {thing}?",
    "What is the colour of the {thing}?",
    "Which colour does the {thing} have?",
)
PLACE_QUESTIONS = (
    "Where is the {thing}?",
    "Where in the picture is the {thing}?",
    "In which part of the picture can the {thing} be found?",
)
KIND_AT_PLACE_QUESTIONS = (
    "What is {place}?",
    "What can be seen {place}?",
    "Which object is {place}?",
)
KIND_OF_COLOUR_QUESTIONS = (
    "What is the {colour} object?",
    "Which object is {colour}?",
    "What kind of thing is the {colour} one?",
)
RELATION_QUESTIONS = (
    "Is the {thing} {relation} the {other}?",
    "Does the {thing} stand {relation} the {other}?",
)

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
"""Index to word."""

PLACES = {
    (0, 0): "top left",
    (1, 0): "top",
    (2, 0): "top right",
    (0, 1): "left",
    (1, 1): "centre",
    (2, 1): "right",
    (0, 2): "bottom left",
    (1, 2): "bottom",
    (2, 2): "bottom right",
}
"""(column, row) of a picture cut into thirds, to the name of that part."""

RELATIONS = {
    "to the left of": (-1, 0),
    "to the right of": (1, 0),
    "above": (0, -1),
    "below": (0, 1),
}
"""Relation to the direction (x, y) in which the first thing lies, seen from the second."""

_IRREGULAR_PLURALS = {
    "person": "people",
    "man": "men",
    "woman": "women",
    "child": "children",
    "mouse": "mice",
    "knife": "knives",
    "sheep": "sheep",
    "scissors": "scissors",
    "skis": "skis",
    "broccoli": "broccoli",
}
_PAIRS = {"scissors": "a pair of scissors", "skis": "a pair of skis", "broccoli": "some broccoli"}


def third(value: float) -> int:
    """Return 0, 1 or 2: the third of 0..1 that `value` lies in."""
    return min(2, max(0, int(value * 3)))


def place_of(x: float, y: float) -> str:
    """Return the name of the part of the picture that holds the point (0..1)."""
    return PLACES[third(x), third(y)]


def near_border(x: float, y: float, margin: float) -> bool:
    """Tell whether the point is within `margin` of a border between thirds: hard to call."""
    return any(abs(value - border) < margin for value in (x, y) for border in (1 / 3, 2 / 3))


def at_place(place: str) -> str:
    """Return the place as the end of a sentence: "at the top left", "in the centre"."""
    return {"centre": "in the centre", "left": "on the left", "right": "on the right"}.get(
        place, f"at the {place}"
    )


def plural(noun: str) -> str:
    """Return the plural of a noun; of several words, the last one's."""
    head, _, last = noun.rpartition(" ")
    if last in _IRREGULAR_PLURALS:
        last = _IRREGULAR_PLURALS[last]
    elif last.endswith(("s", "x", "ch", "sh")):
        last += "es"
    elif last.endswith("y") and last[-2:-1] not in tuple("aeiou"):
        last = last[:-1] + "ies"
    else:
        last += "s"
    return f"{head} {last}" if head else last


def with_article(noun: str) -> str:
    """Return "a dog", "an apple", "a pair of scissors"."""
    if noun in _PAIRS:
        return _PAIRS[noun]
    return f"{'an' if noun[:1] in 'aeiou' else 'a'} {noun}"


def listed(items: list[str]) -> str:
    """Return "a dog", "a dog and a cup", "a dog, a cup and a kite"."""
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]
