"""How many of the things that an assistant names are in the image: named_things.py --help.

It describes each image of a COCO folder; what it names is held against the boxes and captions,
as CHAIR has it (Rohrbach et al. 2018), each category counted once a description. Two controls:
the blank image's descriptions, and what it said of each image held against every other one.
For each it is said how often chance would do as well: the two descriptions of an image swapped
by lot, and the descriptions dealt out to the images at random.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich.progress import track

from laterna.data.images.opening import load_image
from laterna.errors import LaternaError, told
from laterna.inference.assistant import Assistant
from laterna.model.checkpoint import load_checkpoint
from laterna.model.vlm import VisionLanguageModel
from laterna.records import Scene
from laterna.scenes.annotations import stream_scenes
from laterna.scenes.vocabulary import CATEGORIES, ObjectWords

PROMPT = "Describe the picture in detail."
LONGEST = 64
"""Tokens of a description at most."""
DEALS = 10_000
"""Times that chance is asked."""


class Named(NamedTuple):
    """Things named and things there: shares of all descriptions together."""

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
    """Return how the things that each description names agree with those in its image."""
    right = sum(len(names & there) for names, there in zip(said, truth, strict=True))
    return Named(
        right / max(1, sum(map(len, said))),
        right / max(1, sum(map(len, truth))),
    )


def chance(said: Sequence[set[str]], truth: Sequence[set[str]]) -> float:
    """Return how often descriptions dealt out at random have as high an F1.

    One of the deals is the true one, so that no number of deals gives 0 (Phipson and Smyth 2010).
    """
    rng, dealt = random.Random(0), list(truth)
    own = named(said, truth).f1
    as_good = 1
    for _ in range(DEALS):
        rng.shuffle(dealt)
        as_good += named(said, dealt).f1 >= own
    return as_good / (1 + DEALS)


def chance_to_beat(
    blind: Sequence[set[str]], said: Sequence[set[str]], truth: Sequence[set[str]]
) -> float:
    """Return how often F1 is as far ahead where each image's two descriptions swap by lot."""
    rng = random.Random(0)
    ahead = named(said, truth).f1 - named(blind, truth).f1
    as_good = 1
    for _ in range(DEALS):
        pairs = [
            pair if rng.random() < 0.5 else pair[::-1] for pair in zip(said, blind, strict=True)
        ]
        one, other = zip(*pairs, strict=True)
        as_good += named(one, truth).f1 - named(other, truth).f1 >= ahead - 1e-12
    return as_good / (1 + DEALS)


def others(said: Sequence[set[str]], truth: Sequence[set[str]]) -> Named:
    """Return the same of each description and every image but its own."""
    shifts = [[*truth[by:], *truth[:by]] for by in range(1, len(truth))]
    scores = [named(said, shifted) for shifted in shifts]
    precision, recall = (sum(part) / len(scores) for part in zip(*scores, strict=True))
    return Named(precision, recall)


def look(folder: Path) -> tuple[list[Scene], ObjectWords, list[set[str]]]:
    """Return a COCO folder's images, the words for things, and what is in each image.

    Raises LaternaError where it cannot be read, or has fewer than two images.
    """
    scenes = list(stream_scenes(folder, None, [], captionless=True))
    if len(scenes) < 2:
        raise LaternaError(f"{folder}: {len(scenes)} pictures; another one needs at least 2")
    boxed = [{box.category for box in scene.boxes} for scene in scenes]
    words = ObjectWords(dict.fromkeys((*CATEGORIES, *sorted(set().union(*boxed)))))
    told_of = [set().union(*map(words.categories, scene.captions)) for scene in scenes]
    return scenes, words, [one | other for one, other in zip(boxed, told_of, strict=True)]


def describe(
    assistant: VisionLanguageModel, scenes: Sequence[Scene], images: Path, *, blank: bool
) -> list[str]:
    """Return what the assistant says of each image, or of blank ones of the same sizes."""
    answers = []
    for scene in track(scenes, "blank pictures" if blank else "pictures", transient=True):
        image = load_image(images / scene.image)
        shown = assistant.prepare.blank(*image.size) if blank else image
        answers.append(Assistant(assistant).answer(shown, PROMPT, max_new_tokens=LONGEST))
    return answers


def main() -> None:
    """Read the command line, describe and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("data", type=Path, help="a COCO folder: images/, instances.json, …")
    given = parser.parse_args()
    scenes, words, truth = look(given.data)
    assistant = load_checkpoint(given.checkpoint)
    answers = describe(assistant, scenes, given.data / "images", blank=False)
    for scene, answer in zip(scenes, answers, strict=True):
        print(f"{scene.image}: {answer}")
    blind = describe(assistant, scenes, given.data / "images", blank=True)
    for answer in sorted(set(blind)):
        print(f"blank picture: {answer}")
    said, said_blind = ([words.categories(text) for text in texts] for texts in (answers, blind))
    for how, score in (
        ("own picture", named(said, truth)),
        ("another one", others(said, truth)),
        ("blank picture", named(said_blind, truth)),
    ):
        print(f"{how}: precision {score.precision:.3f} recall {score.recall:.3f} F1 {score.f1:.3f}")
    print(f"dealt out at random they do as well in a share of {chance(said, truth):.4f}")
    blank = chance_to_beat(said_blind, said, truth)
    print(f"swapped with the blank picture's by lot they are as far ahead in {blank:.4f}")


if __name__ == "__main__":
    sys.exit(told(main))
