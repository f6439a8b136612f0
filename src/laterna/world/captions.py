"""Puts scenes into words: COCO-like captions, and alt text that mentions everything.

Captions leave out texture, lighting and the words on signs, as COCO's do, and so must everything
that is made from them: this is the blind spot of a text-only teacher. Alt text, which pretrains
the vision encoder, mentions them all, as the web's does.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from laterna.records import Toy, Truth
from laterna.scenes.geometry import place_of
from laterna.scenes.phrases import NUMBERS, at_place, listed, with_article
from laterna.scenes.sampling import shuffled
from laterna.scenes.vocabulary import plural

CAPTIONS = 5
"""Captions an image, as in COCO."""


def write_captions(truth: Truth, rng: np.random.Generator) -> tuple[str, ...]:
    """Return five captions; every toy's colour and place is told by at least one of them."""
    styles = [_placed, _coloured, _counted, _related, _focused]
    captions = [_sentence(style(truth, rng)) for style in styles]
    return tuple(shuffled(captions, rng))


def write_alt_text(truth: Truth, rng: np.random.Generator) -> str:
    """Return one text that mentions every attribute of the scene, in words parted by blanks."""
    parts = [
        f"{at_place(_place(toy))} a {toy.size} {toy.colour} {toy.texture} {toy.category}"
        for toy in shuffled(truth.toys, rng)
    ]
    context = [f"{truth.lighting} light", f"a sign says {truth.sign}" if truth.sign else "no sign"]
    return " , ".join(parts + shuffled(context, rng))


def _placed(truth: Truth, rng: np.random.Generator) -> str:
    toys = shuffled(truth.toys, rng)
    return listed([f"{_noun(toy, rng)} {at_place(_place(toy))}" for toy in toys])


def _coloured(truth: Truth, rng: np.random.Generator) -> str:
    return listed([_noun(toy, rng) for toy in shuffled(truth.toys, rng)]) + " on a table"


def _counted(truth: Truth, rng: np.random.Generator) -> str:
    counts = Counter(toy.category for toy in shuffled(truth.toys, rng))
    groups = [
        with_article(category) if number == 1 else f"{NUMBERS[number]} {plural(category)}"
        for category, number in counts.items()
    ]
    return listed(groups) + " on a table"


def _related(truth: Truth, rng: np.random.Generator) -> str:
    if len(truth.toys) < 2:
        return _placed(truth, rng) + " of a table"
    first, second = shuffled(truth.toys, rng)[:2]
    (x, y), (other_x, other_y) = first.box.centre, second.box.centre
    across, down = x - other_x, y - other_y
    if abs(across) >= abs(down):
        relation = "to the left of" if across < 0 else "to the right of"
    else:
        relation = "above" if down < 0 else "below"
    return f"{_noun(first, rng)} {relation} {_noun(second, rng)}"


def _focused(truth: Truth, rng: np.random.Generator) -> str:
    toy = shuffled(truth.toys, rng)[0]
    return f"there is {_noun(toy, rng)} {at_place(_place(toy))} of the table"


def _noun(toy: Toy, rng: np.random.Generator) -> str:
    size = f"{toy.size} " if rng.random() < 0.3 else ""
    return with_article(f"{size}{toy.colour} {toy.category}")


def _place(toy: Toy) -> str:
    return place_of(*toy.box.centre)


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."
