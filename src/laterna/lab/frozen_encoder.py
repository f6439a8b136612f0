"""Should the vision encoder stay frozen?

Prismatic finds that training it hurts, Cambrian-1 and Eagle that it helps. So it is trained at
several rates and with two amounts of data, and what it forgot is looked at too: the texture of a
toy is in the encoder's features, and no instruction ever asks for it.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from msgspec.structs import replace

from laterna.evaluation.tasks.base import IMAGE_FOLDER
from laterna.evaluation.tasks.world import TRUTH_FILE, read_truth
from laterna.lab.bench import Bench, Plan, score_value
from laterna.lab.drawing import draw_rows
from laterna.lab.experiment import Answer, Arm, Measures, Results, Value, change
from laterna.lab.measures.probes import box_pool, image_features, nearest_hits, probe_hits
from laterna.model.build import build_from_recipe
from laterna.model.vlm import VisionLanguageModel
from laterna.planner.assumptions import Assumptions
from laterna.planner.plan import plan_recipe
from laterna.recipe import Recipe
from laterna.records import Toy, Truth
from laterna.world.scenes import SQUARE
from laterna.world.toys import IMAGE_SIDE

RATES = (2e-5, 2e-4, 2e-3)
"""Of the encoder; the language model's is the last one in the nano recipe."""
FROZEN = "frozen"
ENCODERS: dict[str, dict[str, Any]] = {
    FROZEN: {},
    **{
        f"full {rate:g}": {"instruct.vision.mode": "full", "instruct.vision.lr": rate}
        for rate in RATES
    },
    "last layer": {"instruct.vision.mode": "last-1", "instruct.vision.lr": RATES[1]},
    "lora": {
        "instruct.vision.mode": "lora",
        "instruct.vision.lr": RATES[1],
        "lora.r": 16,
        "lora.alpha": 32,
    },  # an eighth of the encoder's width
}
SHARES = (1.0, 1 / 4)
FEW = tuple(ENCODERS)[: 1 + len(RATES)]
"""What is trained with a share of the data too."""
BEFORE = "before"
SHIFTED = "accuracy, shifted world"
CATEGORY, TEXTURE = "probe, category", "probe, texture"
FOUND_CATEGORY, FOUND_TEXTURE = "retrieval, category", "retrieval, texture"
SECONDS, MEMORY = "processor seconds of stage 2", "memory of a step (MB)"
PROBED_IMAGES = 300


def plan() -> Plan:
    """Return how the experiment is carried out."""
    return Plan(
        done=(
            "Stage 2 leaves the encoder frozen, trains all of it at three learning rates, its last "
            "layer, or adapters (LoRA); with all the steps and with a quarter of them. Stage 1 is "
            "the same for all. The questions are asked of held-out images, and again with the same "
            "scenes in a darker light, with dotted toys, each a square smaller: no image that "
            "anything was trained on shows these. Linear probes tell category and texture of a "
            "toy from the encoder's features. Retrieval needs no training: a toy finds the toy of "
            "another image whose features are nearest to its own by cosine, and counts where both "
            "are of one category, or one texture; `by chance` finds any. Memory is counted on "
            "shapes: weights, gradients, optimizer and activations at the fullest moment of a "
            "step. The frozen encoder's features are read from a cache, which is filled once. "
            "`before` is the encoder as it came."
        ),
        arms=arms,
        measure=measure,
        table={
            "Asked": ("accuracy", "accuracy colour", "accuracy count", "accuracy relation",
                      "blank image", SHIFTED),
            "What the encoder tells": (CATEGORY, TEXTURE, FOUND_CATEGORY, FOUND_TEXTURE),
            "What it costs": (SECONDS, MEMORY),
        },
        draw=draw,
        conclude=conclude,
        published=(
            "Nothing was predicted, for published results disagree. Prismatic (arXiv 2402.07865) "
            "finds that training the encoder hurts (VQAv2 77.1 → 73.5, GQA 62.6 → 59.7); "
            "Cambrian-1 and Eagle, that it helps; CoVFT (arXiv 2603.21077) calls the question open."
        ),
    )  # fmt: skip


def arms(bench: Bench) -> list[Arm]:
    """Return every way with all of the data, and some with a quarter; none reads cached features
    but where the encoder is frozen.
    """
    stage = bench.recipe.instruct
    found = []
    for share in SHARES:
        amount: dict[str, Any] = {
            "instruct.epochs": stage.epochs * share,
            "instruct.max_steps": math.ceil(stage.max_steps * share),
        }
        for name in ENCODERS if share == 1 else FEW:
            changes = ENCODERS[name]
            cache = {"feature_cache": ""} if changes else {}
            found.append(
                Arm(
                    name=_name(name, share),
                    recipe=change(bench.recipe, {**changes, **cache, **amount}),
                )
            )
    return [*found, Arm(name=BEFORE, recipe=bench.recipe, stages=())]


def measure(bench: Bench, arm: Arm) -> Measures:
    """Train, ask in both worlds, and probe the encoder."""
    if not arm.stages:
        return _probes(bench, build_from_recipe(arm.recipe), chance=True)
    checkpoint = bench.train(arm)
    shifted = bench.examine(checkpoint, blank=False, dataset=bench.shifted("shifted", shift))
    took = bench.training.get(checkpoint.name)  # none where a run was ended before it was kept
    return {
        **bench.examine(checkpoint),
        SHIFTED: shifted["accuracy"],
        **_probes(bench, bench.load(checkpoint).model),
        SECONDS: Value(value=took.processor_seconds if took else math.nan),
        MEMORY: Value(value=memory(arm.recipe) / 1e6),
    }


def shift(truth: Truth) -> Truth:
    """Return a scene in a darker light, with dotted toys that are each a square smaller."""
    return replace(truth, lighting="dark", toys=tuple(map(_smaller, truth.toys)))


def _smaller(toy: Toy) -> Toy:
    less = SQUARE / IMAGE_SIDE
    box = replace(toy.box, x2=toy.box.x2 - less, y2=toy.box.y2 - less)
    return replace(toy, texture="dotted", box=box)


def memory(recipe: Recipe) -> int:
    """Return the bytes of stage 2 at the fullest moment of a step, counted on shapes."""
    plan = plan_recipe(recipe, Assumptions(), stages=("instruct",), gpu="H200")
    return plan.stages[0].memory.total


def _probes(bench: Bench, model: VisionLanguageModel, *, chance: bool = False) -> Measures:
    truths = read_truth(bench.world / TRUTH_FILE)[:PROBED_IMAGES]
    names = [truth.image for truth in truths]
    features = image_features(model, bench.world / IMAGE_FOLDER, names)
    toys = [(box_pool(own, toy.box), toy, truth.image)
            for own, truth in zip(features, truths, strict=True) for toy in truth.toys]  # fmt: skip
    pooled_bd, images = torch.stack([pooled for pooled, *_ in toys]), [image for *_, image in toys]
    labels = {
        (CATEGORY, FOUND_CATEGORY): [toy.category for _, toy, _ in toys],
        (TEXTURE, FOUND_TEXTURE): [toy.texture for _, toy, _ in toys],
    }
    found: Measures = {}
    for (probe, retrieval), own in labels.items():
        found[probe] = score_value(probe_hits(pooled_bd, own, seed=bench.seed))
        found[retrieval] = score_value(nearest_hits(pooled_bd, own, images))
        if chance:
            found[f"{retrieval} by chance"] = Value(
                value=sum((own.count(one) / len(own)) ** 2 for one in set(own))
            )
    return found


def draw(results: Results) -> str:
    """Draw, arm by arm, the accuracies in both worlds, what the encoder still tells, and costs."""
    columns = ("accuracy", SHIFTED, TEXTURE, FOUND_TEXTURE, SECONDS)
    blank = results.spread(_name(FROZEN, 1.0), "blank image").mean
    chance = results.spread(BEFORE, f"{FOUND_TEXTURE} by chance").mean
    return draw_rows(
        "frozen-encoder",
        [*results.arms],
        {name: [results.spread(arm, name) for arm in results.arms] for name in columns},
        level={"accuracy": ("blank image", blank), FOUND_TEXTURE: ("chance", chance)},
    )


def conclude(results: Results) -> Answer:
    """Say where training the encoder pays, where it costs, and what it forgot."""
    told = []
    for share, amount in zip(SHARES, ("all of the data", "a quarter of it"), strict=True):
        best = max(FEW[1:], key=lambda name: results.spread(_name(name, share), "accuracy").mean)
        for name in dict.fromkeys((best, FEW[-1])):
            here, there = (
                results.beside(_name(name, share), _name(FROZEN, share), measure)
                for measure in ("accuracy", SHIFTED)
            )
            which = "the best rate" if name == best else "the highest"
            told.append(f"with {amount}, {which} (`{name}`) {here}, in the shifted world {there}")
    probe, found = (
        results.beside(_name(FEW[-1], 1.0), BEFORE, one) for one in (TEXTURE, FOUND_TEXTURE)
    )
    return Answer(
        sentence=(
            f"Shares of right answers against the frozen encoder's: {'; '.join(told)}. Texture, "
            "which nothing taught, is read by a probe, after training at the highest rate against "
            f"before, in a share of {probe}, and retrieval finds it in {found}."
        ),
        limits=(
            "The best rate is chosen on the questions that it is reported on, which favours it. "
            "The encoder was pretrained on this very world, with every attribute in its texts: "
            "there is less to gain here than where an encoder meets new images. What a quarter "
            "of the steps holds back is both data and time."
        ),
    )  # fmt: skip


def _name(encoder: str, share: float) -> str:
    return f"{encoder}, {'all' if share == 1 else f'1/{round(1 / share)}'}"
