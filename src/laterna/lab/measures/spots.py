"""What a property that the text proxy leaves out is asked by, and what a probe reads of it.

A probe that succeeds where the assistant fails says that the eye sees what the instructions never
named. The same probe on shuffled labels shows what such a probe gets from nothing.

Shapes: b images · n patches an image · d width.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from laterna.errors import LaternaError
from laterna.evaluation.run import AnswerFunction, ask
from laterna.evaluation.tasks.base import IMAGE_FOLDER
from laterna.evaluation.tasks.world import TRUTH_FILE, read_truth, single_toys
from laterna.inference.assistant import Assistant
from laterna.lab.measures.probes import (
    box_pool,
    image_features,
    mean_max_pool,
    mean_pool,
    probe_accuracy,
)
from laterna.records import Box, Question, Record, Truth
from laterna.scenes.phrases import SHORT_ANSWER

FEWEST = 20
"""Images without which neither half can hold a probe worth reading."""


class BlindSpot(Record):
    """How well a property is told by the assistant and by a probe; accuracies in 0..1."""

    name: str
    asked: float
    """Exact match of the assistant's answers, over `questions`."""
    probe: float
    """Accuracy of the linear probe on the half of the images that it was not trained on."""
    shuffled: float
    """The same, with the labels shuffled among the images before training."""
    chance: float
    """Share of the commonest label: what always saying it would score."""
    questions: int
    """One an image; half of them train the probe."""


class Case(NamedTuple):
    """One image in which a property can be asked about."""

    image: str
    question: str
    label: str
    box: Box | None
    """Where to look; None: the whole image."""


class _Property(NamedTuple):
    case: Callable[[Truth, random.Random], Case | None]
    pool: Callable[[Tensor, Box | None], Tensor]


def blind_spots(
    assistant: Assistant,
    dataset: Path,
    *,
    limit: int,
    seed: int,
    answer: AnswerFunction | None = None,
    progress: bool = True,
) -> list[BlindSpot]:
    """Measure texture, lighting and sign text on a world dataset that was held out.

    `limit` is the most images (0: all); `seed` draws them, the toys asked about and the probe's
    halves. Raises LaternaError when the dataset is empty or unreadable, an image cannot be read,
    or fewer than `FEWEST` images show a property.
    """
    truths = read_truth(dataset / TRUTH_FILE)
    random.Random(seed).shuffle(truths)
    truths = truths[:limit] if limit else truths
    names = [truth.image for truth in truths]
    features = dict(
        zip(names, image_features(assistant.model, dataset / IMAGE_FOLDER, names), strict=True)
    )
    spots = []
    for name, about in PROPERTIES.items():
        cases = cases_of(about, truths, seed)
        if len(cases) < FEWEST:
            raise LaternaError(
                f"{dataset}: {len(cases)} of {len(truths)} images show a {name}, the probe needs "
                f"{FEWEST}; raise the limit or draw more images"
            )
        questions = [question_of(name, case) for case in cases]
        asked = ask(assistant, questions, dataset / IMAGE_FOLDER, answer=answer, progress=progress)
        accuracy = sum(given.score for given in asked.answers) / len(questions)
        pooled = torch.stack([about.pool(features[case.image], case.box) for case in cases])
        spots.append(_spot(name, cases, accuracy, pooled, seed))
    return spots


def cases_of(about: _Property, truths: Sequence[Truth], seed: int) -> list[Case]:
    """Return where a property can be asked about, at most once an image."""
    rng = random.Random(seed)
    return [case for truth in truths if (case := about.case(truth, rng))]


def texture_case(truth: Truth, rng: random.Random) -> Case | None:
    """Ask for the texture of a toy that can be named, or of none."""
    toys = single_toys(truth)
    if not toys:
        return None
    toy = rng.choice(toys)
    question = f"Is the {toy.category} smooth, rough or striped?"
    return Case(truth.image, question, toy.texture, toy.box)


def lighting_case(truth: Truth, _: random.Random) -> Case | None:
    """Ask for the light."""
    return Case(truth.image, "Is the light in the image bright or dim?", truth.lighting, None)


def sign_case(truth: Truth, _: random.Random) -> Case | None:
    """Ask for the word on the sign, where there is one."""
    if truth.sign is None or truth.sign_box is None:
        return None
    return Case(truth.image, "Which word is on the sign?", truth.sign, truth.sign_box)


PROPERTIES: dict[str, _Property] = {
    "texture": _Property(texture_case, box_pool),
    "lighting": _Property(lighting_case, mean_pool),
    "sign": _Property(sign_case, mean_max_pool),
}
"""Property to how it is asked about, and how its features are pooled for the probe."""


def question_of(name: str, case: Case) -> Question:
    """Return the question about a case."""
    return Question(
        id=f"{case.image}-{name}",
        images=(case.image,),
        kind=name,
        text=case.question + SHORT_ANSWER,
        references=(case.label,),
    )


def _spot(
    name: str, cases: Sequence[Case], asked: float, pooled_bd: Tensor, seed: int
) -> BlindSpot:
    labels = [case.label for case in cases]
    shuffled = random.Random(seed).sample(labels, k=len(labels))
    return BlindSpot(
        name=name,
        asked=asked,
        probe=probe_accuracy(pooled_bd, labels, seed=seed),
        shuffled=probe_accuracy(pooled_bd, shuffled, seed=seed),
        chance=max(Counter(labels).values()) / len(labels),
        questions=len(labels),
    )
