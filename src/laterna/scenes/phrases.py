"""Small words about things and places, in the singular and the plural, alone and in lists."""

from __future__ import annotations

from laterna.scenes.vocabulary import UNITS

SHORT_ANSWER = " Answer briefly."
"""Ends a question that wants the bare answer (LLaVA-1.5 has such a suffix for the same reason)."""

NUMBERS = UNITS[:11]
"""Zero to ten, index to word."""

_PAIRS = {"scissors": "a pair of scissors", "skis": "a pair of skis", "broccoli": "some broccoli"}


def at_place(place: str) -> str:
    """Return the place as the end of a sentence: "at the top left", "in the centre"."""
    return {"centre": "in the centre", "left": "on the left", "right": "on the right"}.get(
        place, f"at the {place}"
    )


def with_article(noun: str) -> str:
    """Return "a dog", "an apple", "a pair of scissors"."""
    if noun in _PAIRS:
        return _PAIRS[noun]
    return f"{'an' if starts_with_a_vowel(noun) else 'a'} {noun}"


def starts_with_a_vowel(word: str) -> bool:
    """Tell whether "an" stands before a word: "an hour", "a unicycle"."""
    if word.startswith(("uni", "use", "one", "ukulele", "eu")) and not word.startswith("unid"):
        return False
    return word[:1] in tuple("aeiou") or word.startswith(("hour", "honor"))


def listed(items: list[str]) -> str:
    """Return "a dog", "a dog and a cup", "a dog, a cup and a kite"."""
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]
