"""Spoils true replies by a seeded script and tells which faults the boxes can decide.

Nothing here asks the checker: what can be decided is worked out from boxes and captions alone,
with this file's own few rules, before any reply is checked. A corruption is *decidable* when

- `absent object`: an object is inserted whose category no box has and no caption names by any
  word of `WORDS_FOR` (nor by a word that could mean it);
- `changed count`: the number of a sentence about a boxed category is changed to one above the
  boxes (near-equal ones counted once) where no caption speaks vaguely or tells another number,
  or to one below them in a sentence that counts all there are ("There are three dogs in the
  image.");
- `swapped side`: left and right change places in a sentence about two categories, or a category
  and the image, that have one box each, apart by more than 0.15 of the image;
- `leak`: always, for the words alone decide it.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from laterna.records import Box, Scene

OBJECTS = {
    "elephant": "elephant", "bus": "bus", "kite": "kite", "pizza": "pizza", "horse": "horse",
    "umbrella": "umbrella", "toilet": "toilet", "surfboard": "surfboard", "clock": "clock",
    "airplane": "airplane", "banana": "banana", "couch": "sofa", "dog": "puppy", "boat": "sailboat",
    "bench": "bench", "fire hydrant": "fire hydrant", "zebra": "zebra", "laptop": "laptop",
}  # fmt: skip
"""Category to the word that is inserted."""
WORDS_FOR = {
    "bus": "bus buses decker vehicle vehicles traffic van", "clock": "clock clocks watch time",
    "airplane": "airplane plane planes jet aircraft airplanes",
    "couch": "couch sofa loveseat furniture chair seat", "dog": "dog dogs puppy pup husky animals",
    "boat": "boat boats ship sailboat canoe vessel", "bench": "bench benches seat furniture",
    "laptop": "laptop computer laptops computers electronics", "pizza": "pizza pizzas food",
    "horse": "horse horses pony animals", "elephant": "elephant elephants animals",
    "zebra": "zebra zebras animals", "banana": "banana bananas fruit food",
    "surfboard": "surfboard surf surfer surfing board boards", "kite": "kite kites",
    "umbrella": "umbrella umbrellas parasol", "toilet": "toilet toilets urinal seat",
    "fire hydrant": "hydrant hydrants",
}  # fmt: skip
INSERTIONS = (
    "There is also {a} in the background.", "Next to it stands {a}.",
    "In the foreground, {a} can be seen.", "The scene also features {a}.",
    "{A} is visible as well.", "To one side, one can notice {a} that adds to the scene.",
)  # fmt: skip
LEAKS = (
    "According to the caption, this is a typical moment.",
    "The captions suggest that it is daytime.",
    "Its bounding box lies near the edge.",
    "It is located at [0.312, 0.457, 0.611, 0.9].",
    "The coordinates show that they are close together.",
    "Based on the provided description, the mood is calm.",
    "The given sentences do not tell more than that.",
    "It is described as an ordinary day.",
    "As mentioned in the description, the light is even.",
    "The text does not say who took the picture.",
    "The exact place is not specified.",
)
COUNTS = (
    "There are {n} {things} in the picture.", "The image features {n} {things}.",
    "One can count {n} {things} here.", "In total, {n} {things} are visible.",
    "The scene includes {n} {things}, which draw the eye.",
)  # fmt: skip
"""The first counts all there are, whoever reads it; the others may be read of some."""
RELATIONS = (
    "The {a} is to the {side} of the {b}.", "The {a} can be seen on the {side} side of the {b}.",
    "To the {side} of the {b}, there is a {a}.", "There is a {a} placed to the {side} of the {b}.",
)  # fmt: skip
PLACES = (
    "The {a} is on the {side} side of the picture.",
    "On the {side} side of the image, there is a {a}.",
    "There is a {a} on the {side}.", "A {a} is located towards the back, on the {side} side.",
)  # fmt: skip
VAGUE = frozenset(
    """several many group groups crowd herd flock bunch row rows lot lots pile piles dozen
    few some multiple various couple pair stack others other number variety assorted
    traffic collection""".split()
)
NUMBERS = "zero one two three four five six seven eight nine".split()
PLURALS = {"person": "people", "knife": "knives", "sheep": "sheep", "mouse": "mice", "bus": "buses"}
_WORDS = re.compile(r"[a-z]+|\d+")


OWN_COUNTS = (
    ("000000056013", "detail", "two", 1, "four"), ("000000056013", "detail", "two", 1, "five"),
    ("000000203629", "detail", "two", 0, "three"), ("000000203629", "detail", "two", 0, "six"),
    ("000000225738", "conv", "four", 0, "five"), ("000000225738", "conv", "four", 0, "three"),
    ("000000225738", "detail", "four", 0, "six"), ("000000225738", "complex", "four", 0, "five"),
    ("000000473210", "conv", "two", 0, "three"), ("000000473210", "detail", "two", 0, "four"),
    ("000000473210", "complex", "two", 0, "three"), ("000000441147", "conv", "two", 0, "three"),
    ("000000441147", "detail", "two", 0, "three"), ("000000441147", "complex", "two", 0, "four"),
    ("000000367571", "conv", "four", 0, "six"), ("000000367571", "complex", "four", 0, "seven"),
    ("000000109532", "detail", "two", 0, "three"), ("000000109532", "detail", "two", 1, "four"),
    ("000000506483", "detail", "two", 1, "five"),
)  # fmt: skip
"""Number words of the real replies whose change a person, boxes and captions at hand, judged to
be decidable: image, type of reply, word, which of its occurrences in the answer, and what it
becomes. Judged before the checker was asked; only changes upwards, or of all there are."""
OWN_SIDES = (
    ("000000473210", "detail", "left", 0), ("000000109532", "detail", "right", 1),
    ("000000506483", "detail", "left", 1),
)  # fmt: skip
"""The same for left and right; the other ten in the replies are of what has no box, of one of
several, of a direction ("further to the left"), or wrong as GPT-4 wrote them."""


class Corruption(NamedTuple):
    """One spoiled reply."""

    kind: str
    """absent object, changed count, swapped side or leak."""
    way: str
    """`inserted` (a sentence of this file's, true before it was changed) or `own` words changed."""
    text: str
    """The answer's text, spoiled."""
    fault: str
    """The offending sentence."""
    decidable: bool


def corruptions(answer: str, scene: Scene, rng: np.random.Generator) -> list[Corruption]:
    """Return an answer spoiled in every way that fits its scene."""
    made = [_absent(answer, scene, rng), _leak(answer, rng)]
    made += [_count(answer, scene, rng), _relation(answer, scene, rng), _place(answer, scene, rng)]
    return [one for one in made if one is not None]


def own_corruptions(image: str, kind: str, answer: str) -> list[Corruption]:
    """Return a real reply's answer with its own numbers and sides changed, where decidable."""
    made = []
    for at_image, of_kind, word, nth, new in OWN_COUNTS:
        if (at_image, of_kind) == (image, kind):
            made.append(_changed("changed count", answer, word, nth, new))
    for at_image, of_kind, word, nth in OWN_SIDES:
        if (at_image, of_kind) == (image, kind):
            new = {"left": "right", "right": "left"}[word]
            made.append(_changed("swapped side", answer, word, nth, new))
    return made


def _changed(kind: str, answer: str, word: str, nth: int, new: str) -> Corruption:
    found = list(re.finditer(rf"\b{word}\b", answer, re.IGNORECASE))[nth]
    text = answer[: found.start()] + new + answer[found.end() :]
    start = max(text.rfind(". ", 0, found.start()), text.rfind("\n", 0, found.start())) + 1
    end = text.find(".", found.start())
    fault = text[start : end + 1 if end >= 0 else len(text)].strip()
    return Corruption(kind, "own", text, fault, True)


def insert(answer: str, sentence: str, rng: np.random.Generator) -> str:
    """Return the answer with a sentence put between two of its own, or at its end."""
    parts = re.split(r"(?<=[.!?])(\s+)", answer)
    gaps = list(range(1, len(parts), 2))
    at = int(rng.integers(len(gaps) + 1))
    if at == len(gaps):
        return f"{answer.rstrip()} {sentence}"
    gap = gaps[at]
    return "".join((*parts[:gap], " ", sentence, *parts[gap:]))


def _absent(answer: str, scene: Scene, rng: np.random.Generator) -> Corruption | None:
    spoken = _caption_words(scene)
    boxed = {box.category for box in scene.boxes}
    absent = [
        name
        for name in sorted(OBJECTS)
        if name not in boxed and not spoken & {*WORDS_FOR[name].split(), *name.split()}
    ]
    if not absent:
        return None
    word = OBJECTS[absent[int(rng.integers(len(absent)))]]
    thing = f"{'an' if word[0] in 'aeiou' else 'a'} {word}"
    template = INSERTIONS[int(rng.integers(len(INSERTIONS)))]
    fault = template.format(a=thing, A=thing[0].upper() + thing[1:])
    return Corruption("absent object", "inserted", insert(answer, fault, rng), fault, True)


def _leak(answer: str, rng: np.random.Generator) -> Corruption:
    fault = LEAKS[int(rng.integers(len(LEAKS)))]
    return Corruption("leak", "inserted", insert(answer, fault, rng), fault, True)


def _count(answer: str, scene: Scene, rng: np.random.Generator) -> Corruption | None:
    counted = sorted(_counts(scene).items())
    if not counted:
        return None
    category, number = counted[int(rng.integers(len(counted)))]
    wrong = [n for n in range(2, 9) if n != number and abs(n - number) <= 3]
    told = wrong[int(rng.integers(len(wrong)))]
    template = int(rng.integers(len(COUNTS)))
    fault = COUNTS[template].format(n=NUMBERS[told], things=plural(category))
    spoken = _caption_words(scene)
    sure = not VAGUE & spoken and not any(w in spoken for w in (*NUMBERS[2:], *"23456789"))
    sure = sure and not (number == 1 and plural(category).split()[-1] in spoken)
    decidable = (told > number and sure) or (told < number and template == 0)
    return Corruption("changed count", "inserted", insert(answer, fault, rng), fault, decidable)


def _relation(answer: str, scene: Scene, rng: np.random.Generator) -> Corruption | None:
    single = single_boxes(scene)
    pairs = [
        (a, b)
        for a in sorted(single)
        for b in sorted(single)
        if a != b and abs(_x(single[a]) - _x(single[b])) > 0.15
    ]
    if not pairs:
        return None
    a, b = pairs[int(rng.integers(len(pairs)))]
    swapped = "right" if _x(single[a]) < _x(single[b]) else "left"
    template = RELATIONS[int(rng.integers(len(RELATIONS)))]
    fault = template.format(a=a, b=b, side=swapped)
    return Corruption("swapped side", "inserted", insert(answer, fault, rng), fault, True)


def _place(answer: str, scene: Scene, rng: np.random.Generator) -> Corruption | None:
    placed = [
        (name, box)
        for name, box in sorted(single_boxes(scene).items())
        if box.x2 - box.x1 < 0.4 and abs(_x(box) - 0.5) > 0.15
    ]
    if not placed:
        return None
    name, box = placed[int(rng.integers(len(placed)))]
    template = PLACES[int(rng.integers(len(PLACES)))]
    fault = template.format(a=name, side="right" if _x(box) < 0.5 else "left")
    return Corruption("swapped side", "inserted", insert(answer, fault, rng), fault, True)


def plural(category: str) -> str:
    """Return the plural of a COCO category's name."""
    if category in PLURALS:
        return PLURALS[category]
    ending = "es" if category.endswith(("s", "sh", "ch", "x")) else "s"
    return category + ending


def _counts(scene: Scene) -> dict[str, int]:
    """Count boxes by category; one box that near-equals another (IoU > 0.9) leaves both out."""
    counts: dict[str, int] = {}
    doubled = {
        category
        for at, box in enumerate(scene.boxes)
        for other in scene.boxes[:at]
        if _overlap(box, other) > 0.9
        for category in (box.category, other.category)
    }
    for box in scene.boxes:
        counts[box.category] = counts.get(box.category, 0) + 1
    unclear = doubled | {"scissors", "skis", "broccoli", "sheep"}
    return {name: n for name, n in counts.items() if name not in unclear and n <= 6}


def single_boxes(scene: Scene) -> dict[str, Box]:
    """Return the categories that have one box, with that box."""
    counts = _counts(scene)
    return {box.category: box for box in scene.boxes if counts.get(box.category) == 1}


def _caption_words(scene: Scene) -> set[str]:
    return set(_WORDS.findall(" ".join(scene.captions).lower()))


def _x(box: Box) -> float:
    return (box.x1 + box.x2) / 2


def _overlap(a: Box, b: Box) -> float:
    across = max(0.0, min(a.x2, b.x2) - max(a.x1, b.x1))
    down = max(0.0, min(a.y2, b.y2) - max(a.y1, b.y1))
    union = (a.x2 - a.x1) * (a.y2 - a.y1) + (b.x2 - b.x1) * (b.y2 - b.y1) - across * down
    return across * down / union if union else 0.0
