"""Ways to say in English that one thing is left or right of another, or of the picture.

Written on 2026-11-24 before the reading of relations was generalised, then split by lot (half of
each family): the checks were built against the building half alone, and the held-out half was
asked at the end. What it missed then was mended, so it is held out no longer. Newer wordings, with
a held-out part that still is, are in `side_wordings_2026-11-30.txt`. `{a}` is the thing that is on
the `{side}` of `{b}`; `{other}` is the opposite side, `{left}` and `{right}` are the
two things as they lie.

`python benchmarks/side_wordings.py FILE...` tells how many swapped sentences are found and how
many true ones are called wrong, on the scenes of annotation files or folders.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from laterna.records import Box, Reply, Scene
from laterna.scenes.annotations import read_annotations
from laterna.synthesis.checks import check

Singles = Callable[[Scene], dict[str, Box]]
"""Gives the categories of a scene that have one box, with that box."""
_APART = 0.15
"""Centres lie apart, or from the middle, by more than this share of the picture."""
_OTHER = {"left": "right", "right": "left"}

RELATIONS: dict[str, tuple[str, ...]] = {
    "plain": (
        "The {a} is to the {side} of the {b}.",
        "The {a} is left standing on the {side} of the {b}.",
        "The {a} lies {side} of the {b}.",
        "There is a {a} directly to the {side} of the {b}.",
        "The {a} appears on the {side} side of the {b}.",
        "You can see a {a} to the {side} of the {b}.",
        "I notice a {a} just to the {side} of the {b}.",
        "The {a} stands at the {side} of the {b}.",
    ),
    "passive": (
        "The {a} is placed to the {side} of the {b}.",
        "The {a} has been put to the {side} of the {b}.",
        "A {a} is shown to the {side} of a {b}.",
        "The {a} can be found at the {side} side of the {b}.",
        "A {a} is being kept to the {side} of the {b}.",
        "The {a} is seen positioned immediately {side} of the {b}.",
    ),
    "fronted": (
        "To the {side} of the {b} there is a {a}.",
        "To the {side} of the {b} is a {a}.",
        "On the {side} of the {b} stands a {a}.",
        "Just {side} of the {b}, we find a {a}.",
        "To the immediate {side} of the {b} sits a {a}.",
        "On the {side} hand side of the {b} one can make out a {a}.",
        "Directly to the {side} of the {b}, a {a} can be seen.",
        "To the {b}'s {side} there is a {a}.",
    ),
    "possessive": (
        "The {a} is on the {b}'s {side}.",
        "A {a} is at the {b}'s {side} side.",
        "There is a {a} to the {b}'s {side}.",
        "On the {b}'s {side} one sees a {a}.",
        "The {b} has a {a} on its {side}.",
        "The {b} has a {a} to its {side}.",
        "The {b} has the {a} at its {side} side.",
        "The {b} is seen with a {a} to its {side}.",
    ),
    "hand side": (
        "The {a} is on the {side}-hand side of the {b}.",
        "The {a} is at the {side} hand side of the {b}.",
        "There is a {a} on the {side}-hand side of the {b}.",
        "On the {b}'s {side}-hand side there is a {a}.",
        "On the {side}-hand side of the {b}, you find a {a}.",
        "A {a} can be spotted at the {b}'s {side}-hand side.",
    ),
    "with": (
        "The {b} stands there with the {a} to its {side}.",
        "A {b} can be seen, with a {a} on its {side}.",
        "The picture shows a {b} with a {a} to the {side} of it.",
        "There is a {b} with a {a} to its {side} in the picture.",
        "The {b} is pictured together with a {a} on its {side} side.",
        "We see a {b}, with the {a} placed on its {side}.",
    ),
    "flanked": (
        "The {b} is flanked by a {a} on its {side}.",
        "The {b} is flanked on the {side} by a {a}.",
        "A {a} flanks the {b} on the {side}.",
        "The {b} is accompanied by a {a} to its {side}.",
        "The {b} is bordered on its {side} side by a {a}.",
        "A {a} borders the {b} on the {side} side.",
    ),
    "beside": (
        "The {a} is beside the {b}, on the {side}.",
        "The {a} stands next to the {b} on its {side} side.",
        "Next to the {b}, on the {side}, is a {a}.",
        "Beside the {b} on its {side} there is a {a}.",
        "The {a} is next to the {b}, to the {side} of it.",
        "A {a} sits near the {b}, on its {side} side.",
        "Next to the {b}, to its {side}, one can see a {a}.",
        "The {a} is found right next to the {b}, on its {side}.",
    ),
    "relative clause": (
        "There is a {a} which is to the {side} of the {b}.",
        "The {a} that stands to the {side} of the {b} catches the eye.",
        "One sees a {b}, to the {side} of which there is a {a}.",
        "The {b}, which has a {a} to its {side}, draws attention.",
        "The {b}, whose {side} side is next to a {a}, is easy to see.",
        "A {a}, which can be seen to the {side} of the {b}, completes the scene.",
        "The picture has a {b}, and to the {side} of it a {a}.",
        "There is a {b} that has a {a} on its {side}.",
    ),
    "pronoun": (
        "There is a {b}, and to its {side} there is a {a}.",
        "There is a {b} and, on the {side} of it, a {a}.",
        "The picture shows a {b} and a {a} to its {side}.",
        "One sees a {b}; to the {side} of it stands a {a}.",
        "A {b} is there, and a {a} is to its {side}.",
        "Looking at the {b}, we find a {a} on its {side}.",
    ),
    "contrast": (
        "The {a} is to the {side}, while the {b} is to the {other}.",
        "The {a} is on the {side} and the {b} is on the {other}.",
        "The {b} is on the {other}, with the {a} on the {side}.",
        "From left to right, the picture shows {left} and {right}.",
        "The {a} is further to the {side} than the {b}.",
        "The {a} is more to the {side} than the {b}.",
        "The {b} is farther {other} than the {a}.",
        "Compared with the {b}, the {a} is further {side}.",
    ),
}  # fmt: skip
"""Family to its ways of telling how two things stand."""

PLACES: dict[str, tuple[str, ...]] = {
    "plain": (
        "The {a} is on the {side}.",
        "The {a} is at the {side} of the picture.",
        "The {a} lies in the {side} part of the image.",
        "There is a {a} in the {side} half of the photo.",
        "You can spot a {a} toward the {side} edge of the frame.",
        "The {a} takes up the {side} side of the scene.",
    ),
    "passive": (
        "The {a} is located on the {side} side of the image.",
        "A {a} is depicted on the {side}-hand side of the picture.",
        "A {a} can be observed at the far {side} of the image.",
        "The {a} has been photographed on the {side} side of the frame.",
        "The {side} side of the picture is occupied by a {a}.",
        "The {side} part of the image is filled by a {a}.",
    ),
    "fronted": (
        "On the {side} there is a {a}.",
        "On the {side} is a {a}.",
        "At the {side} edge of the picture stands a {a}.",
        "To the {side}, a {a} can be seen.",
        "To the far {side} we find a {a}.",
        "In the {side} half of the image, one notices a {a}.",
        "Over on the {side} sits a {a}.",
        "On the {side}-hand side, there's a {a}.",
    ),
    "subject is the side": (
        "The {side} side of the image shows a {a}.",
        "The {side} half of the picture features a {a}.",
        "The {side} side of the scene contains a {a}.",
        "The picture's {side} side holds a {a}.",
        "The {side} of the photo shows a {a}.",
        "The {side} portion of the frame includes a {a}.",
    ),
    "noun phrase": (
        "The picture shows a {a} on the {side}.",
        "The image features a {a} on the {side} side.",
        "We see a {a} on the {side}-hand side.",
        "The scene includes a {a} in the {side} half.",
        "There is a {a} visible to the {side}.",
        "One finds a {a} at the image's {side} edge.",
    ),
    "relative clause": (
        "The {a} that is on the {side} catches the eye.",
        "The {a}, which is on the {side} side of the image, is easy to see.",
        "There is a {a}, which appears at the {side}.",
        "Another thing to see is the {a} located at the {side} of the photo.",
        "A {a} is there as well, placed on the {side} side of the picture.",
        "The {a}, on the {side} side of the photo, draws attention.",
    ),
}  # fmt: skip
"""Family to its ways of telling where in the picture a thing is."""


def _split(families: dict[str, tuple[str, ...]], seed: int) -> tuple[list[str], list[str]]:
    """Draw half of each family by lot."""
    rng = np.random.default_rng(seed)
    building: list[str] = []
    held_out: list[str] = []
    for templates in families.values():
        order = rng.permutation(len(templates))
        half = len(templates) // 2
        building += [templates[at] for at in sorted(order[:half])]
        held_out += [templates[at] for at in sorted(order[half:])]
    return building, held_out


BUILDING_RELATIONS, HELD_OUT_RELATIONS = _split(RELATIONS, 20261124)
BUILDING_PLACES, HELD_OUT_PLACES = _split(PLACES, 20261125)


def read_wordings(path: Path) -> dict[str, tuple[str, ...]]:
    """Return the parts of a file of templates: "[name]" starts one, "#" a comment."""
    parts: dict[str, tuple[str, ...]] = {}
    name = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            name = line.strip("[]")
        elif line and not line.startswith("#"):
            parts[name] = (*parts.get(name, ()), line)
    return parts


FRESH = read_wordings(Path(__file__).with_name("side_wordings_2026-11-30.txt"))


class Sentence(NamedTuple):
    """One wording about one scene: as it is, and with left and right swapped."""

    template: str
    scene: Scene
    true: str
    swapped: str


class Share(NamedTuple):
    """What was found of the sentences of some wordings."""

    sentences: int
    swapped_found: int
    true_called_wrong: int


def sentences(
    templates: Sequence[str], scenes: Sequence[Scene], singles: Singles, *, each: int, seed: int
) -> Iterator[Sentence]:
    """Yield `each` sentences a wording, about things that one box decides, drawn by lot.

    No person is spoken of as "it".
    """
    rng = np.random.default_rng(seed)
    for template in templates:
        found = list(_decidable(template, scenes, singles))
        for at in rng.integers(len(found), size=each):
            yield _sentence(template, *found[int(at)])


def measure(made: Sequence[Sentence]) -> Share:
    """Ask the checks about every sentence, true and swapped."""
    return Share(
        len(made),
        sum(_is_called_wrong(one.scene, one.swapped) for one in made),
        sum(_is_called_wrong(one.scene, one.true) for one in made),
    )


def _decidable(
    template: str, scenes: Sequence[Scene], singles: Singles
) -> Iterator[tuple[Scene, str, str, str]]:
    """Yield scenes with two things, or a thing and "", and the side of the first."""
    for scene in scenes:
        single = singles(scene)
        if "{b}" not in template and "{left}" not in template:
            for name, box in sorted(single.items()):
                if box.x2 - box.x1 < 0.4 and abs(_x(box) - 0.5) > _APART:
                    yield scene, name, "", "left" if _x(box) < 0.5 else "right"
            continue
        for a in sorted(single):
            for b in sorted(single):
                offset = _x(single[a]) - _x(single[b])
                it = " its " in template and b == "person"
                if a != b and abs(offset) > _APART and not it:
                    yield scene, a, b, "left" if offset < 0 else "right"


def _sentence(template: str, scene: Scene, a: str, b: str, side: str) -> Sentence:
    return Sentence(
        template, scene, _filled(template, a, b, side), _filled(template, a, b, _OTHER[side])
    )


def _filled(template: str, a: str, b: str, side: str) -> str:
    left, right = (f"the {a}", f"the {b}") if side == "left" else (f"the {b}", f"the {a}")
    text = template.format(a=a, b=b, side=side, other=_OTHER[side], left=left, right=right)
    text = re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)
    return text[0].upper() + text[1:]


def _is_called_wrong(scene: Scene, sentence: str) -> bool:
    verdict = check(scene, Reply(text=sentence, finish_reason="stop"), "detail")
    return any(finding.reason == "wrong position" for finding in verdict.findings)


def _x(box: Box) -> float:
    return (box.x1 + box.x2) / 2


def main() -> None:
    """Print the table of the annotation files that the command line names."""
    from corruptions import single_boxes

    scenes = [scene for path in sys.argv[1:] for scene in read_annotations(Path(path)).scenes]
    for name, templates in (
        ("building, two things", BUILDING_RELATIONS),
        ("building, in the picture", BUILDING_PLACES),
        ("held out, two things", HELD_OUT_RELATIONS),
        ("held out, in the picture", HELD_OUT_PLACES),
        *((f"2026-11-30, {part}", templates) for part, templates in FRESH.items()),
    ):
        for seed in (0, 1):
            share = measure(list(sentences(templates, scenes, single_boxes, each=6, seed=seed)))
            print(f"{name}: {len(templates)} wordings, draw {seed}, {share}")


if __name__ == "__main__":
    main()
