"""Why align the connector first?

Stage 2 alone meets a connector that says nothing yet: the language model is pulled about by noise
before it is taught. The arms begin stage 2 with an aligned, a calibrated or a random connector, or
let the language model learn in stage 1 too.

Shapes: n image tokens · v words · d width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from laterna.data.images.opening import load_image
from laterna.evaluation.tasks.base import IMAGE_FOLDER
from laterna.evaluation.tasks.world import TRUTH_FILE, read_truth
from laterna.inference.assistant import Assistant
from laterna.lab.bench import Bench, Plan, score_value
from laterna.lab.drawing import draw_rows
from laterna.lab.experiment import (
    Answer,
    Arm,
    Measures,
    Results,
    Value,
    change,
    verdict,
)
from laterna.lab.measures.text import read_right
from laterna.model.build import build_from_recipe
from laterna.training.resume import METRICS
from laterna.training.telemetry import read_metrics

FIRST_STEPS = 20
LOOKED_AT = 32
"""Images whose tokens are held against the words."""
NORMS = "gradient norm, first steps"
FORGOT = "right about captions, no image"
DISTANCE = "cosine to the nearest word"
BOTH, RANDOM, CALIBRATED, OPEN = "two stages", "random", "calibrated", "open from the start"
BEFORE = "before"


def plan() -> Plan:
    """Return how the experiment is carried out."""
    return Plan(
        done=(
            "The arms end with the same stage 2. `two stages` aligns the connector before it; "
            "`random` begins stage 2 with random weights, `calibrated` with weights fitted to the "
            "scale of features and words but not aligned; `open from the start` lets the language "
            "model learn in stage 1 too. Gradient norms are over all that trains. What the "
            "language model forgot is seen in its own task from before it met an image: questions "
            "about held-out scenes whose five captions stand in the image's place. The row "
            "`before` is the language model as it came."
        ),
        arms=arms,
        measure=measure,
        table=("accuracy", "blank image", "loss, last steps", NORMS, DISTANCE, FORGOT),
        draw=draw,
        conclude=conclude,
    )


def arms(bench: Bench) -> list[Arm]:
    """Return the ways into stage 2."""
    language = bench.recipe.instruct.language
    random = change(bench.recipe, {"connector.calibrate": False})
    opened = change(bench.recipe, {"align.language": language})
    return [
        Arm(name=BOTH, recipe=bench.recipe),
        Arm(name=CALIBRATED, recipe=bench.recipe, stages=("instruct",)),
        Arm(name=RANDOM, recipe=random, stages=("instruct",)),
        Arm(name=OPEN, recipe=opened),
        Arm(name=BEFORE, recipe=bench.recipe, stages=()),
    ]


def measure(bench: Bench, arm: Arm) -> Measures:
    """Train, ask, and look at the gradients, the image tokens and what was forgotten."""
    if not arm.stages:
        return {FORGOT: _remembered(Assistant(build_from_recipe(arm.recipe).eval()), bench)}
    checkpoint = bench.train(arm)
    steps = read_metrics(checkpoint / METRICS)
    norms = [step.grad_norm for step in steps]
    measures: Measures = {
        "loss, last steps": bench.plateau(checkpoint),
        NORMS: Value(value=sum(norms[:FIRST_STEPS]) / len(norms[:FIRST_STEPS])),
        "gradient norms": Value(value=norms[-1], scores=tuple(norms)),
        DISTANCE: nearest_words(bench, checkpoint_of=arm),
    }
    measures |= bench.examine(checkpoint)
    measures[FORGOT] = _remembered(bench.load(checkpoint), bench)
    return measures


def _remembered(assistant: Assistant, bench: Bench) -> Value:
    return read_right(assistant, bench.validation, seed=bench.seed)


@torch.no_grad()
def nearest_words(bench: Bench, *, checkpoint_of: Arm) -> Value:
    """Return the mean cosine of an image token with the word embedding nearest to it."""
    model = bench.load(bench.train(checkpoint_of)).model
    truths = read_truth(bench.validation / TRUTH_FILE)[:LOOKED_AT]
    images = [load_image(bench.validation / IMAGE_FOLDER / one.image) for one in truths]
    words_vd = model.language.get_input_embeddings().weight
    found = [nearest_cosine(tokens, words_vd) for tokens in model.encode_images(images)]
    return score_value(torch.cat(found).tolist())


def nearest_cosine(tokens_nd: Tensor, words_vd: Tensor) -> Tensor:
    """Return each token's highest cosine (n,) with any of the words."""
    unit = torch.nn.functional.normalize
    return (unit(tokens_nd.float(), dim=-1) @ unit(words_vd.float(), dim=-1).T).amax(dim=-1)


def draw(results: Results) -> str:
    """Draw, arm by arm, what is answered, what was kept, and how hard the first steps pull."""
    columns = ("accuracy", FORGOT, NORMS, DISTANCE)
    return draw_rows(
        "two-stages",
        [*results.arms],
        {name: [results.spread(arm, name) for arm in results.arms] for name in columns},
        level={"accuracy": ("blank image", results.spread(BOTH, "blank image").mean)},
    )


def conclude(results: Results) -> Answer:
    """Say what stage 1 is worth beside each other way, and what the language model forgot."""
    told = ", ".join(
        f"{results.beside(BOTH, arm, 'accuracy')} of `{arm}`" for arm in (CALIBRATED, RANDOM, OPEN)
    )
    ahead = [results.difference(BOTH, arm, "accuracy").sign for arm in (RANDOM, CALIBRATED)]
    kept, random = (results.beside(arm, BEFORE, FORGOT) for arm in (BOTH, RANDOM))
    return Answer(
        sentence=(
            f"Before the same stage 2, aligning first leads to a share of right answers of {told}. "
            "Of questions about captions, for which it needs no image, the language model answers "
            f"{kept} before after two stages, and {random} after stage 2 from a random connector."
        ),
        foretold=" ".join(
            [
                verdict(
                    "aligning first answers more questions than a random start and than a "
                    "calibrated one",
                    ahead == [1, 1],
                ),
                verdict(
                    "the language model forgets less where the connector was aligned first",
                    results.difference(BOTH, RANDOM, FORGOT).sign == 1,
                ),
            ]
        ),
        limits=(
            "Two stages take more steps than one. The language model here is small and was made "
            "on texts about the same world, of which stage 2 gives it more; a large one has more "
            "to forget."
        ),
    )  # fmt: skip
