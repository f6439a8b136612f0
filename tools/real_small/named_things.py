"""How many of the things that answers name are in the image: named_things.py --help.

Reads the answers of `laterna evaluate --task captions --out RUN`, with its controls. What each
answer names is held against boxes and captions, as CHAIR has it (Rohrbach et al. 2018), each kind
once. Kinds are those of COCO and those that the folder's boxes are named by, where
`laterna.scenes.kinds` knows them: "others" is no thing. A girl and a man are persons, a terrier is
a dog: what is a kind of one of COCO's counts as that. Intervals are of 2,000 draws of images.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from laterna.errors import LaternaError, told
from laterna.evaluation.saved import read_run
from laterna.records import Answer
from laterna.scenes.annotations import stream_scenes
from laterna.scenes.kinds import is_a, kind_of
from laterna.scenes.vocabulary import CATEGORIES, ObjectWords

TASK = "captions"
DRAWS = 2_000


class Named(NamedTuple):
    """Things named and things there: shares of all answers together."""

    precision: float
    """Share of the named things that are there (1 - CHAIRi); 0 where none is named."""
    recall: float
    """Share of the things there that are named."""

    @property
    def f1(self) -> float:
        """Return their harmonic mean; 0 where both are."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


def named(said: Sequence[set[str]], truth: Sequence[set[str]]) -> Named:
    """Return how the things that each answer names agree with those in its image."""
    right = sum(len(names & there) for names, there in zip(said, truth, strict=True))
    return Named(
        right / max(1, sum(map(len, said))),
        right / max(1, sum(map(len, truth))),
    )


def interval(said: Sequence[set[str]], truth: Sequence[set[str]]) -> tuple[float, float]:
    """Return the ends of F1's 95 % interval, by draws of images with replacement."""
    rng = random.Random(0)
    pairs = list(zip(said, truth, strict=True))
    drawn = []
    for _ in range(DRAWS):
        one, other = zip(*rng.choices(pairs, k=len(pairs)), strict=True)
        drawn.append(named(one, other).f1)
    drawn.sort()
    return drawn[round(0.025 * DRAWS)], drawn[round(0.975 * DRAWS) - 1]


class Things(NamedTuple):
    """What is in each image of a folder, and the words for it."""

    words: ObjectWords
    of_image: Mapping[str, set[str]]
    """Kinds that boxes or captions name, by the image's name."""

    def named_in(self, text: str) -> set[str]:
        """Return the kinds that a text names."""
        return set(map(coarse, self.words.categories(text)))


def coarse(name: str) -> str:
    """Return COCO's category that a kind is one of, or else the kind."""
    kind = kind_of(name) or name
    return next((one for one in CATEGORIES if is_a(kind, one)), kind)


def look(folder: Path) -> Things:
    """Read a COCO folder. Raises LaternaError where it cannot be read."""
    scenes = list(stream_scenes(folder, None, [], captionless=True))
    boxed = [{box.category for box in scene.boxes if kind_of(box.category)} for scene in scenes]
    words = ObjectWords(dict.fromkeys((*CATEGORIES, *sorted(set().union(*boxed)))))
    found: dict[str, set[str]] = {}
    for scene, boxes in zip(scenes, boxed, strict=True):
        told_of = set().union(*map(words.categories, scene.captions))
        found[scene.image] = set(map(coarse, boxes | told_of))
    return Things(words, found)


def table(answers: Mapping[str, Sequence[Answer]], things: Things) -> list[str]:
    """Return a line of figures for each way of showing images.

    Raises LaternaError for an answer about an image that the folder does not have.
    """
    lines = []
    for how, given in answers.items():
        names = [Path(answer.question.images[0]).name for answer in given]
        lost = [name for name in names if name not in things.of_image]
        if lost:
            raise LaternaError(f"{lost[0]}: the run asked about it, and the folder has no such one")
        truth = [things.of_image[name] for name in names]
        said = [things.named_in(answer.text) for answer in given]
        score, (low, high) = named(said, truth), interval(said, truth)
        lines.append(
            f"{how}: precision {score.precision:.3f}, recall {score.recall:.3f}, "
            f"F1 {score.f1:.3f} ({low:.3f} to {high:.3f}) of {len(given)} images"
        )
    return lines


def main() -> None:
    """Read the command line and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of an evaluation of captions")
    parser.add_argument("data", type=Path, help="a COCO folder: images/, instances.json, …")
    given = parser.parse_args()
    run = read_run(given.run)
    answers = {"own image": run.answers(TASK)}
    answers |= {f"control {name}": found for name, found in run.controls(TASK).items()}
    print("\n".join(table(answers, look(given.data))))


if __name__ == "__main__":
    sys.exit(told(main))
