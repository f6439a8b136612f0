"""What boxes and captions hold, and how surely: the side that a reply is held against."""

from __future__ import annotations

from collections import defaultdict
from functools import lru_cache
from typing import NamedTuple

from laterna.records import Box, Scene
from laterna.scenes.geometry import SAME_BOX, intersection_over_union, merge_boxes
from laterna.scenes.vocabulary import BROADER, Mention, ObjectWords, words_of
from laterna.synthesis.checks.numbers import VAGUE, number_before
from laterna.synthesis.checks.reading import check_words, means_all, plain

_MANY = 10
"""From so many boxes on, more may have been left unannotated or drawn as one crowd region."""


class Number(NamedTuple):
    """How many of a category there may be."""

    least: int
    """Boxes that are surely different things of the category."""
    most: int | None
    """None where captions or crowds say that boxes may not hold every one."""
    told: frozenset[int]
    """Numbers that captions tell."""


class Evidence(NamedTuple):
    """What a scene's boxes and captions hold."""

    words: ObjectWords
    captions: tuple[str, ...]
    boxes: dict[str, tuple[Box, ...]]
    """Category to its boxes, one of each group of near-equal ones."""
    held: frozenset[str]
    """Categories that boxes hold or captions name."""
    possible: frozenset[str]
    """Categories that a word of the captions may speak of."""
    numbers: dict[str, Number]
    """For the categories with boxes."""


def gather_evidence(scene: Scene) -> Evidence:
    """Return what a scene holds; categories that COCO's words cover go by COCO's names."""
    names = {name: _canonical(name) for name in dict.fromkeys(box.category for box in scene.boxes)}
    words = check_words(tuple(sorted(set(names.values()))))
    grouped: dict[str, list[Box]] = defaultdict(list)
    for box in scene.boxes:
        grouped[names[box.category]].append(box)
    grouped = {category: merge_boxes(boxes) for category, boxes in grouped.items()}
    captions = [plain(caption) for caption in scene.captions]
    read = [(tuple(words_of(caption)), words.mentions(caption)) for caption in captions]
    held = set(grouped) | {mention.category for _, found in read for mention in found}
    possible = {
        category for spoken, _ in read for word in spoken for category in BROADER.get(word, ())
    }
    if "orange" in {word for spoken, _ in read for word in spoken}:
        possible.add("orange")
    boxes = {category: tuple(found) for category, found in grouped.items()}
    return Evidence(
        words=words,
        captions=scene.captions,
        boxes=boxes,
        held=frozenset(held),
        possible=frozenset(possible - held),
        numbers={category: _number(category, boxes, read) for category in boxes},
    )


@lru_cache(maxsize=4096)
def _canonical(name: str) -> str:
    """Return COCO's name of a category that another source calls otherwise ("Man")."""
    spoken = name.replace("_", " ").lower()
    found = check_words().mentions(spoken)
    whole = len(found) == 1 and found[0].first == 0 and found[0].last == len(words_of(spoken))
    return found[0].category if whole else spoken


def _number(
    category: str,
    boxes: dict[str, tuple[Box, ...]],
    read: list[tuple[tuple[str, ...], list[Mention]]],
) -> Number:
    own = boxes[category]
    others = [box for name, found in boxes.items() if name != category for box in found]
    doubled = sum(
        any(intersection_over_union(box, other) > SAME_BOX for other in others) for box in own
    )
    told: set[int] = set()
    told_of_all = False  # "a group of four giraffes" with four boxes is not vague
    vague = len(own) >= _MANY
    for spoken, mentions in read:
        about = [mention for mention in mentions if mention.category == category]
        if not about and not any(category in BROADER.get(word, ()) for word in spoken):
            continue
        vague = vague or bool(VAGUE.intersection(spoken))
        for mention in about:
            number = number_before(spoken, mention.first)
            if number is not None:
                told.add(number)
                phrase = " ".join(spoken[mention.first : mention.last])
                told_of_all |= number >= len(own) > 1 and means_all(category, phrase)
            elif mention.plural and len(own) == 1:
                vague = True
    most = None if vague and not told_of_all else max(len(own), *told, 0)
    # boxes that another category's box covers may be one thing under two names
    return Number(least=len(own) - doubled, most=most, told=frozenset(told))
