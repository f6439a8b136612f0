"""What boxes and captions hold, and how surely: the side that a reply is held against."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from laterna.records import Box, Scene
from laterna.scenes.facts import colours_told
from laterna.scenes.geometry import SAME_BOX, intersection_over_union, merge_boxes
from laterna.scenes.vocabulary import (
    BROADER,
    SUPERCATEGORIES,
    Mention,
    ObjectWords,
    WordSets,
    words_of,
)
from laterna.synthesis.checks.sentences import check_words, count_of, means_all, plain

_W = WordSets(__package__, "evidence")

_MANY = 10
"""From so many boxes on, more may have been left unannotated or drawn as one crowd region."""
_REACH = 7


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
    colours: dict[str, frozenset[str]]
    """Category to the colours that captions give it; where there is surely one of it."""


class _Caption(NamedTuple):
    words: tuple[str, ...]
    mentions: tuple[Mention, ...]
    vague: frozenset[str]
    """Categories that a vague word stands with."""


def gather_evidence(scene: Scene) -> Evidence:
    """Return what a scene holds; categories that COCO's words cover go by COCO's names."""
    names = {name: _canonical(name) for name in dict.fromkeys(box.category for box in scene.boxes)}
    words = check_words(tuple(sorted(set(names.values()))))
    grouped: dict[str, list[Box]] = defaultdict(list)
    for box in scene.boxes:
        grouped[names[box.category]].append(box)
    boxes = {category: tuple(merge_boxes(found)) for category, found in grouped.items()}
    read = [_read(plain(caption), words) for caption in scene.captions]
    spoken = {word for caption in read for word in caption.words}
    held = set(boxes) | {one.category for caption in read for one in caption.mentions}
    possible = {category for word in spoken for category in BROADER.get(word, ())}
    if "orange" in spoken:
        possible.add("orange")
    numbers = {category: _number(category, boxes, read) for category in boxes}
    single = {name for name, number in numbers.items() if number.least == number.most == 1}
    told = colours_told((caption.words, caption.mentions) for caption in read)
    return Evidence(
        words=words,
        captions=scene.captions,
        boxes=boxes,
        held=frozenset(held),
        possible=frozenset(possible - held),
        numbers=numbers,
        colours={name: colours for name, colours in told.items() if name in single},
    )


def _read(said: str, words: ObjectWords) -> _Caption:
    spoken, mentions = tuple(words_of(said)), tuple(words.mentions(said))
    return _Caption(spoken, mentions, frozenset(_vague(spoken, mentions)))


def _vague(spoken: tuple[str, ...], mentions: tuple[Mention, ...]) -> Iterable[str]:
    """Yield the categories that a vague word of a caption stands with."""
    inside = {at: one for one in mentions for at in range(one.first, one.last)}
    for at, word in enumerate(spoken):
        after = spoken[at + 1 : at + 2]
        if word in _W.busy and at not in inside and after not in (("sign",), ("signs",)):
            yield from (*SUPERCATEGORIES["vehicle"], "person")
        if word not in _W.vague and word not in _W.arranged:
            continue
        if at in inside:  # "a crowd", "a family", "a couple of people"
            if inside[at].category == "person":
                yield "person"
            continue
        ahead = list(_spoken_of(spoken, at, inside))
        yield from ahead
        if not ahead and word in _W.arranged and after != ("of",):
            behind = [one for one in mentions if one.last <= at]
            yield from (one.category for one in behind[-1:])


def _spoken_of(spoken: tuple[str, ...], at: int, inside: dict[int, Mention]) -> Iterable[str]:
    """Yield what a vague word leads on to, and what is listed after it without an article."""
    step, end = at + 1, at + 1 + _REACH
    found = listing = False
    while step < min(len(spoken), end):
        word = spoken[step]
        if step in inside or word in BROADER:
            yield from () if word in _W.contents else BROADER.get(word, ())
            if step in inside:
                yield inside[step].category
                step = inside[step].last - 1
            found, listing, end = True, False, step + 1 + _REACH
        elif found and not listing:
            if word not in (",", "and"):
                return
            listing = True
        elif word in _W.stops or (found and word in _W.articles):
            one = spoken[step + 1 : step + 2] in (("a",), ("an",))  # "topped with a laptop"
            leads = spoken[at] in _W.leading_on and word in ("with", "by", "in") and not one
            goes_on = listing and word == "and"
            if not leads and not goes_on:
                return
        step += 1


@lru_cache(maxsize=4096)
def _canonical(name: str) -> str:
    """Return COCO's name of a category that another source calls otherwise ("Man")."""
    spoken = name.replace("_", " ").lower()
    found = check_words().mentions(spoken)
    whole = len(found) == 1 and found[0].first == 0 and found[0].last == len(words_of(spoken))
    return found[0].category if whole else spoken


def _number(category: str, boxes: dict[str, tuple[Box, ...]], read: list[_Caption]) -> Number:
    own = boxes[category]
    others = [box for name, found in boxes.items() if name != category for box in found]
    doubled = sum(
        any(intersection_over_union(box, other) > SAME_BOX for other in others) for box in own
    )
    told: set[int] = set()
    told_of_all = False  # "a group of four giraffes" with four boxes is not vague
    vague = len(own) >= _MANY or any(category in caption.vague for caption in read)
    for caption in read:
        for mention in caption.mentions:
            if mention.category != category:
                continue
            number = count_of(caption.words, mention)
            if number is not None:
                told.add(number.value)
                phrase = " ".join(caption.words[mention.first : mention.last])
                told_of_all |= number.value >= len(own) > 1 and means_all(category, phrase)
            elif mention.plural and len(own) == 1:
                vague = True
    most = None if vague and not told_of_all else max(len(own), *told, 0)
    # boxes that another category's box covers may be one thing under two names
    return Number(least=len(own) - doubled, most=most, told=frozenset(told))
