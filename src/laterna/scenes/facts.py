"""What captions and boxes together make certain about an image."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from laterna.records import Box
from laterna.scenes.geometry import merge_boxes, near_border, place_of
from laterna.scenes.kinds import absent_of
from laterna.scenes.phrases import NUMBERS
from laterna.scenes.vocabulary import COLOURS, Mention, ObjectWords, words_of

BORDER_MARGIN = 0.04
"""A centre nearer than this to a border between thirds is too hard to call."""
_SIZES = frozenset(("small", "large", "big", "little", "tiny", "huge"))
_VAGUE = frozenset(
    "several many group groups crowd herd flock bunch row rows lot lots pile dozens few some "
    "multiple various numerous variety assorted couple pair stack".split()
)
"""Words that say that boxes may not hold every one."""

_GAMES = frozenset(("baseball", "basketball", "football"))
"""Names of a ball, and of its game: "a baseball uniform" is no ball."""


class Thing(NamedTuple):
    """One boxed object."""

    category: str
    x: float
    y: float
    """Centre, 0..1."""
    box: Box


class Facts(NamedTuple):
    """What captions and boxes make certain."""

    captions: tuple[str, ...]
    things: tuple[Thing, ...]
    mentioned: frozenset[str]
    """Categories that the captions name."""
    agreed: dict[str, bool]
    """Categories that most captions name, to whether most of these speak of several."""
    absent: tuple[str, ...]
    """Annotated categories that neither boxes nor captions hold, nor a word for a wider kind that
    may mean them; none where there are no boxes, for captions leave out most of what is there."""
    colours: dict[str, frozenset[str]]
    """Category to the colours that captions give it."""
    counts: dict[str, int]
    """Category to how many there are, where that is certain."""

    @property
    def present(self) -> tuple[str, ...]:
        """Categories in the image, in the text's order: the boxed ones or, for want of boxes,
        those that the captions name."""
        boxed = tuple(dict.fromkeys(thing.category for thing in self.things))
        return boxed or tuple(sorted(self.mentioned))

    def single(self) -> dict[str, Thing]:
        """Return the categories of exactly one thing, with that thing."""
        return {t.category: t for t in self.things if self.counts.get(t.category) == 1}

    def colour_of(self, category: str) -> str | None:
        """Return the one colour of the only thing of a category, or None if that is not certain."""
        colours = self.colours.get(category, frozenset())
        if self.counts.get(category) != 1 or len(colours) != 1:
            return None
        return next(iter(colours))


def gather_facts(
    captions: tuple[str, ...],
    boxes: tuple[Box, ...],
    words: ObjectWords,
    categories: Iterable[str],
) -> Facts:
    """Read captions and boxes; `categories` are those that the dataset annotates."""
    things = tuple(Thing(box.category, *box.centre, box) for box in merge_boxes(boxes))
    read: list[Read] = [(words_of(caption), words.mentions(caption)) for caption in captions]
    mentioned = frozenset(mention.category for _, found in read for mention in found)
    boxed = {thing.category for thing in things} | {box.category for box in boxes}
    # A caption's "orange" may be the fruit or the colour: so oranges are not surely absent.
    spoken = {word for caption_words, _ in read for word in caption_words}
    absent = absent_of(categories, mentioned | boxed | spoken) if boxes else ()
    vague = any(_VAGUE.intersection(_outside(*caption)) for caption in read)
    return Facts(
        captions=captions,
        things=things,
        mentioned=mentioned,
        agreed=_agreed(read),
        absent=absent,
        colours=colours_told(read),
        counts=_counts(things, read) if not vague else {},
    )


def place_if_certain(thing: Thing) -> str | None:
    """Return the part of the image that a thing is in, or None where it is hard to call."""
    wide = thing.box.x2 - thing.box.x1 > 0.5 or thing.box.y2 - thing.box.y1 > 0.5
    if wide or near_border(thing.x, thing.y, BORDER_MARGIN):
        return None
    return place_of(thing.x, thing.y)


def places_near(thing: Thing) -> set[str]:
    """Return the parts of the image that a thing could be said to be in."""
    shifts = (-BORDER_MARGIN, BORDER_MARGIN)
    return {place_of(thing.x + across, thing.y + down) for across in shifts for down in shifts}


Read = tuple[Sequence[str], Sequence[Mention]]
"""A caption's words and the objects it names."""


def _outside(words: Sequence[str], mentions: Sequence[Mention]) -> set[str]:
    """Return the words that name no object: the "pair" in "pair of scissors" is not one of them."""
    inside = {at for mention in mentions for at in range(mention.first, mention.last)}
    return {word for at, word in enumerate(words) if at not in inside}


def colours_before(words: Sequence[str], first: int) -> frozenset[str]:
    """Return the colours that stand right before a mention: "a red and white bus" has two."""
    found: set[str] = set()
    for word in reversed(words[:first]):
        if word in COLOURS:
            found.add(word)
        elif word != "and" or not found:
            break  # "a man in red and cats": the colour is not the cats'
    return frozenset(found)


def colours_told(read: Iterable[Read]) -> dict[str, frozenset[str]]:
    """Return the colours that captions give to categories."""
    found: dict[str, set[str]] = defaultdict(set)
    for words, mentions in read:
        for mention in mentions:
            found[mention.category] |= colours_before(words, mention.first)
    return {category: frozenset(colours) for category, colours in found.items() if colours}


def _agreed(read: list[Read]) -> dict[str, bool]:
    """Tell of each category that most captions name whether most of these speak of several."""
    told: dict[str, list[bool]] = defaultdict(list)
    for words, mentions in read:
        several: dict[str, bool] = {}
        for mention in mentions:
            if words[mention.first] in _GAMES:
                continue
            several[mention.category] = several.get(mention.category, False) or mention.plural
        for category, plural in several.items():
            told[category].append(plural)
    return {
        category: 2 * sum(votes) > len(votes)
        for category, votes in told.items()
        if 2 * len(votes) > len(read)
    }


def _counts(things: tuple[Thing, ...], read: list[Read]) -> dict[str, int]:
    """Count boxes, and leave out every category whose number a caption seems to dispute."""
    counts: dict[str, int] = defaultdict(int)
    for thing in things:
        counts[thing.category] += 1
    for words, mentions in read:
        for mention in mentions:
            told = _told_number(words, mention)
            counted = counts.get(mention.category)
            disputed = told != counted if told else mention.plural and counted == 1
            if counted and disputed:
                del counts[mention.category]
    return {category: number for category, number in counts.items() if number < len(NUMBERS)}


def _told_number(words: Sequence[str], mention: Mention) -> int | None:
    """Return the number word before a mention, colours and sizes between them allowed."""
    at = mention.first - 1
    while at >= 0 and words[at] in COLOURS | _SIZES:
        at -= 1
    if at >= 0 and words[at] in NUMBERS[1:]:
        return NUMBERS.index(words[at])
    return None
