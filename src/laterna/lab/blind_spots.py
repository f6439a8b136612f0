"""What the instruction data never showed: texture, lighting and sign text.

A text-only teacher sees boxes and captions, and neither says what a toy feels like, how bright
the light is or what a sign reads. Two measurements tell where such a blind spot sits: the
assistant is asked, and a linear probe is trained on the frozen encoder's features. A probe that
succeeds where the assistant fails says that the eye sees what the instructions never named. The
same probe on shuffled labels shows what such a probe gets from nothing.

Shapes: b images · n patches an image · d width.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from laterna.errors import LaternaError
from laterna.evaluation.run import AnswerFunction, ask
from laterna.evaluation.tasks.base import IMAGE_FOLDER
from laterna.evaluation.tasks.world import TRUTH_FILE, read_truth, single_toys
from laterna.inference.assistant import Assistant
from laterna.lab.bench import Bench, Plan
from laterna.lab.drawing import Panel, draw_panels
from laterna.lab.experiment import Answer, Arm, Measures, Results, Value
from laterna.lab.probes import (
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


def plan() -> Plan:
    """Return how the experiment is carried out."""
    return Plan(
        done=(
            "An assistant is trained on what a teacher wrote from boxes and captions, which say "
            "nothing of texture, light and words on signs. It is asked about them, and a linear "
            "probe is trained on the frozen encoder's features, beside the same probe with "
            "shuffled labels."
        ),
        arms=lambda bench: [Arm(name="proxy", recipe=bench.recipe)],
        measure=measure,
        table=tuple(f"{name}, {what}" for name in PROPERTIES for what in ("asked", "probe")),
        draw=draw,
        conclude=conclude,
    )


def measure(bench: Bench, arm: Arm) -> Measures:
    """Train, ask about each property, and probe the features for it."""
    assistant = bench.load(bench.train(arm))
    spots = blind_spots(assistant, bench.validation, limit=0, seed=bench.seed)
    measures: Measures = {}
    for spot in spots:
        shares = {"asked": spot.asked, "probe": spot.probe, "chance": spot.chance}
        shares["probe, labels shuffled"] = spot.shuffled
        measures |= {f"{spot.name}, {what}": Value(value=one) for what, one in shares.items()}
    return measures | bench.examine(bench.train(arm))


def draw(results: Results) -> str:
    """Draw what is answered, what a probe reads, and chance, by property."""
    places = {float(number): name for number, name in enumerate(PROPERTIES)}
    spread = partial(results.spread, "proxy")
    series = {
        what: [(place, spread(f"{name}, {what}")) for place, name in places.items()]
        for what in ("asked", "probe", "probe, labels shuffled", "chance")
    }
    panel = Panel(series, across="property", up="share right", ticks=places, lines=False)
    return draw_panels("blind-spots", [panel])


def conclude(results: Results) -> Answer:
    """Say of each property whether the eye sees what the assistant does not tell."""
    told = []
    for name in PROPERTIES:
        asked, probe = (
            results.spread("proxy", f"{name}, {what}").mean for what in ("asked", "probe")
        )
        told.append(f"{name} is answered right in {asked:.2f} and read by a probe in {probe:.2f}")
    return Answer(
        sentence=f"{'; '.join(told)}.".capitalize(),
        limits="What a probe cannot read may still be there for a larger reader.",
    )


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
        rng = random.Random(seed)
        cases = [case for truth in truths if (case := about.case(truth, rng))]
        if len(cases) < FEWEST:
            raise LaternaError(
                f"{dataset}: {len(cases)} of {len(truths)} images show a {name}, the probe needs "
                f"{FEWEST}; raise the limit or draw more images"
            )
        questions = [_question(name, case) for case in cases]
        asked = ask(assistant, questions, dataset / IMAGE_FOLDER, answer=answer, progress=progress)
        accuracy = sum(given.score for given in asked.answers) / len(questions)
        pooled = torch.stack([about.pool(features[case.image], case.box) for case in cases])
        spots.append(_spot(name, cases, accuracy, pooled, seed))
    return spots


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


def _question(name: str, case: Case) -> Question:
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
