"""What the instruction data never showed: texture, lighting and sign text.

A text-only teacher sees boxes and captions, and neither says what a toy feels like, how bright
the light is or what a sign reads. Two measurements tell where such a blind spot sits: the
assistant is asked, and a linear probe is trained on the frozen encoder's features. A probe that
succeeds where the assistant fails says that the eye sees what the instructions never named. The
same probe on shuffled labels shows what such a probe gets from nothing.

Shapes: b images · n patches an image · d width.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from rich.table import Table
from torch import Tensor, nn

from laterna.data.images.opening import load_image
from laterna.errors import LaternaError
from laterna.evaluation.run import AnswerFunction, ask
from laterna.evaluation.tasks.base import IMAGE_FOLDER
from laterna.evaluation.tasks.world import TRUTH_FILE, read_truth, single_toys
from laterna.inference.assistant import Assistant
from laterna.lab.experiment import Finding, Subject
from laterna.model.vlm import VisionLanguageModel
from laterna.records import Box, Question, Record, Truth
from laterna.scenes.phrases import SHORT_ANSWER

FEWEST = 20
"""Images without which neither half can hold a probe worth reading."""
IMAGES_A_PASS = 64
_DECAY = 1e-2
_ITERATIONS = 100


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


def run(subject: Subject) -> Finding:
    """Measure a subject's blind spots: a row for each property."""
    assistant, data, limit, seed = subject
    spots = blind_spots(assistant, data, limit=limit, seed=seed)
    table = Table("property", "asked", "probe", "probe, labels shuffled", "chance", "questions")
    for spot in spots:
        shares = (spot.asked, spot.probe, spot.shuffled, spot.chance)
        table.add_row(spot.name, *(f"{share:.3f}" for share in shares), str(spot.questions))
    return Finding(table, f"measured {len(spots)} blind spots")


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


@torch.no_grad()
def image_features(model: VisionLanguageModel, folder: Path, names: Sequence[str]) -> Tensor:
    """Return the frozen encoder's features (b, n, d) of square images, on the CPU.

    Raises LaternaError when an image cannot be read, or is not square: a box would then not be
    where the encoder sees it.
    """
    chunks = []
    for start in range(0, len(names), IMAGES_A_PASS):
        images = [load_image(folder / name) for name in names[start : start + IMAGES_A_PASS]]
        for name, image in zip(names[start:], images, strict=False):
            if image.width != image.height:
                raise LaternaError(f"{folder / name}: not square; draw the dataset again")
        pixels_bchw = model.prepare(images).to(model.device)
        chunks.append(model.vision(pixels_bchw).float().cpu())
    return torch.cat(chunks)


def probe_accuracy(features_bd: Tensor, labels: Sequence[str], *, seed: int) -> float:
    """Train multinomial logistic regression on one half, return its accuracy (0..1) on the other.

    `seed` draws the halves. Features are standardised by the training half.
    """
    classes = sorted(set(labels))
    targets_b = torch.tensor([classes.index(label) for label in labels])
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    train, test = order[: len(order) // 2], order[len(order) // 2 :]
    features_bd = features_bd.detach().float()
    mean = features_bd[train].mean(dim=0)
    # A feature that never varies in training is left unscaled: it says nothing either way.
    deviation = features_bd[train].std(dim=0).clamp_min(1e-6)
    features_bd = (features_bd - mean) / deviation
    with torch.enable_grad():
        probe = _fit(features_bd[train], targets_b[train], len(classes))
    with torch.no_grad():
        hits = probe(features_bd[test]).argmax(dim=-1) == targets_b[test]
    return float(hits.float().mean())


def mean_pool(features_nd: Tensor, _: Box | None) -> Tensor:
    """Return the mean of all patches, (d,)."""
    return features_nd.mean(dim=0)


def box_pool(features_nd: Tensor, box: Box | None) -> Tensor:
    """Return the mean of the patches whose centres the box covers, (d,).

    A box that covers no centre takes the patch that its own centre lies in; no box, all patches.
    """
    if box is None:
        return features_nd.mean(dim=0)
    side = grid_side(len(features_nd))
    centres = (torch.arange(side) + 0.5) / side
    columns = (centres >= box.x1) & (centres <= box.x2)
    rows = (centres >= box.y1) & (centres <= box.y2)
    covered = (rows[:, None] & columns[None, :]).flatten()
    if not covered.any():
        column, row = (min(side - 1, int(middle * side)) for middle in box.centre)
        return features_nd[row * side + column]
    return features_nd[covered].mean(dim=0)


def mean_max_pool(features_nd: Tensor, _: Box | None) -> Tensor:
    """Return mean and maximum over all patches, (2·d,): a small sign is lost in the mean alone."""
    return torch.cat([features_nd.mean(dim=0), features_nd.amax(dim=0)])


def grid_side(patches: int) -> int:
    """Return the side of the square grid of patches; raises LaternaError when it is not square."""
    side = math.isqrt(patches)
    if side * side != patches:
        raise LaternaError(
            f"{patches} features an image are not a square grid of patches; "
            "measure a checkpoint whose recipe has vision.class_token = false"
        )
    return side


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


def _fit(features_bd: Tensor, targets_b: Tensor, classes: int) -> nn.Linear:
    """Fit a linear classifier by L-BFGS with weight decay, from zero: nothing is left to chance."""
    probe = nn.Linear(features_bd.shape[1], classes)
    nn.init.zeros_(probe.weight)
    nn.init.zeros_(probe.bias)
    optimizer = torch.optim.LBFGS(
        probe.parameters(), max_iter=_ITERATIONS, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(probe(features_bd), targets_b)
        loss = loss + _DECAY * probe.weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return probe
