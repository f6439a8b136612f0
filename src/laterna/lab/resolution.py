"""What do pixels cost, and what do they buy?

The cost is counted for LLaVA-1.5 7B and measured at real widths: two layers of CLIP ViT-L/14 and
two of SmolLM2-135M, weights drawn at random, in float32. A side of 1,024 pixels holds 73 whole
patches of 14, so 1,022 pixels. What pixels buy is measured on the world: the same image becomes
more tokens or fewer, and questions about small toys stand apart from those about large ones.

Shapes: t tokens of an image.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch

from laterna.evaluation.tasks.world import TRUTH_FILE, read_truth, single_toys
from laterna.files import write_json
from laterna.lab.bench import FULL, Bench, Plan
from laterna.lab.drawing import Panel, draw_panels
from laterna.lab.experiment import (
    Answer,
    Arm,
    Measures,
    Results,
    Spread,
    Value,
    change,
    verdict,
)
from laterna.model.build import build_on_meta, build_random, image_counter
from laterna.model.connectors import build_connector
from laterna.model.cost import StepCost, cost_of
from laterna.model.sources import PUBLISHED, with_published
from laterna.planner.dry_run import DryRun, count_cache
from laterna.recipe import ConnectorSettings, Recipe, load_recipe
from laterna.records import Question, Truth

SIDES = (112, 224, 336, 448, 672, 1022)
QUICK_SIDES = SIDES[:4]
LAYERS = 2
ENOUGH = 0.2
"""CPU seconds that a measurement is repeated for at least."""
VISION, LANGUAGE = "openai/clip-vit-large-patch14", "HuggingFaceTB/SmolLM2-135M-Instruct"
TOKENS, TOKENS_LEFT = "tokens", "tokens an image"
CACHE, FLOPS = "KV cache of 7B (MB)", "attention of 7B (GFLOPs)"
ATTENTION, PREFILL, ENCODER = "attention (s)", "prefill (s)", "encoder (s)"
COSTS = (CACHE, FLOPS, ATTENTION, PREFILL, ENCODER)
_UNCALIBRATED = {"connector.calibrate": False}  # only some kinds can be
CONNECTORS: dict[str, dict[str, Any]] = {
    "mlp": _UNCALIBRATED | {"connector.kind": "mlp"},
    "pool 2": _UNCALIBRATED | {"connector.kind": "pool", "connector.merge_side": 2},
    "pool 4": _UNCALIBRATED | {"connector.kind": "pool", "connector.merge_side": 4},
    "perceiver 32": _UNCALIBRATED | {"connector.kind": "perceiver", "connector.queries": 32},
}
COUNTED = {"pool 2": "pool", "perceiver": "perceiver", "Q-Former": "qformer"}
"""Kinds of connector that leave fewer tokens, counted beside the perceptron's."""
POWERS = {CACHE: 1, FLOPS: 2}
"""What counted costs grow as, by the shapes alone."""
NEAR = 0.005
"""Of an exponent, to be called that."""
ANYRES = "AnyRes of 336 px"
SMALL, LARGE = "accuracy small", "accuracy large"
OF_ONE_TOY = ("colour", "kind", "place")
"""Kinds of question that are about one toy."""


def plan() -> Plan:
    """Return how the experiment is carried out."""
    return Plan(
        done=(
            "Cost: tokens, KV cache and attention FLOPs of LLaVA-1.5 7B (bf16) are counted on "
            f"shapes; seconds of one CPU thread's work are measured on {LAYERS} layers of ViT-L/14 "
            f"and {LAYERS} of SmolLM2-135M with random weights in float32. Worth: assistants are "
            "trained whose connector leaves all 64 tokens of an image, 16 or 4 by pooling, or 32 "
            "by a perceiver. Questions for colour, kind and place stand apart by the size of the "
            "toy that they are about."
        ),
        arms=arms,
        measure=measure,
        table={
            "What an image costs": (TOKENS, *COSTS),
            "Tokens that other connectors leave": (*(f"tokens, {name}" for name in COUNTED),
                                                   f"tokens, {ANYRES}"),
            "What tokens buy": (TOKENS_LEFT, "accuracy", SMALL, LARGE, "accuracy count",
                                "accuracy relation", "blank image"),
        },
        draw=draw,
        conclude=conclude,
        published=(
            "From 224 to 336 px LLaVA-1.5 reports GQA 50.3 → 51.4, MME 1426.5 → 1450 and MM-Vet "
            "30.8 → 30.3; LLaVA-NeXT, that resolution helps more than tokens do, and small things "
            "most."
        ),
    )  # fmt: skip


def arms(bench: Bench) -> list[Arm]:
    """Return an arm a connector that the encoder's grid allows, and an untrained one a size."""
    grid = math.isqrt(image_counter(change(bench.recipe, CONNECTORS["mlp"]))(1, 1))
    trained = [
        Arm(name=name, recipe=change(bench.recipe, changes))
        for name, changes in CONNECTORS.items()
        if grid % changes.get("connector.merge_side", 1) == 0
    ]
    sides = SIDES if bench.size.images >= FULL.images else QUICK_SIDES
    sizes = [
        Arm(name=f"{side} px", recipe=change(bench.recipe, {"vision.image_size": side}), stages=())
        for side in sides
    ]
    return [*trained, *sizes]


def measure(bench: Bench, arm: Arm) -> Measures:
    """Measure the cost of a size, or train and ask."""
    if not arm.stages:
        side = arm.recipe.vision.image_size or 0
        return counted(side) | measured(side, bench.cached(f"cost-{side}"))
    truths = {one.image: one for one in read_truth(bench.validation / TRUTH_FILE)}

    def group(question: Question) -> str:
        return size_asked(question, truths[question.images[0]])

    checkpoint = bench.train(arm)
    tokens = image_counter(arm.recipe)(1, 1)
    return {TOKENS_LEFT: Value(value=float(tokens)), **bench.examine(checkpoint, group=group)}


def size_asked(question: Question, truth: Truth) -> str:
    """Return the size of the one toy that a question is about; empty where it is about more."""
    if question.kind not in OF_ONE_TOY:
        return ""
    said = f"{question.text} {question.references[0]}"
    found = [toy for toy in single_toys(truth) if f" {toy.category}" in said]
    return found[0].size if len(found) == 1 else ""


class _Theory(NamedTuple):
    recipe: Recipe
    dry_run: DryRun
    forward: StepCost


@lru_cache(maxsize=1)
def _theory() -> _Theory:
    """Return LLaVA-1.5 7B on the meta device, its weights in bf16."""
    recipe, _ = with_published(load_recipe("llava-1.5-7b"))
    skeleton = build_on_meta(recipe)
    for part in skeleton.parts().values():
        part.to(torch.bfloat16)
    return _Theory(recipe, DryRun(skeleton), cost_of(skeleton).forward)


def counted(side: int) -> Measures:
    """Return what a square image of so many pixels costs LLaVA-1.5 7B, counted on shapes."""
    recipe, dry_run, forward = _theory()
    tokens = (side // 14) ** 2
    numbers = {
        TOKENS: float(tokens),
        CACHE: count_cache(dry_run, tokens) / 1e6,
        FLOPS: forward.pair * tokens**2 / 1e9,
        f"tokens, {ANYRES}": image_counter(change(recipe, {"vision.fit": "anyres"}))(side, side),
    }
    for name, kind in COUNTED.items():
        if tokens % 4 == 0 or kind != "pool":
            with torch.device("meta"):
                connector = build_connector(ConnectorSettings(kind=kind), 1024, 4096, fresh=False)
            numbers[f"tokens, {name}"] = connector.tokens(tokens)
    return {name: Value(value=float(number)) for name, number in numbers.items()}


@torch.no_grad()
def measured(side: int, folder: Path) -> Measures:
    """Return the CPU seconds of encoder, attention and prefill for a square image.

    Configurations of the published models, with fewer layers, are written to `folder`.
    """
    shapes = {"vision": (VISION, {"image_size": side, "num_hidden_layers": LAYERS + 1}),
              "language": (LANGUAGE, {"num_hidden_layers": LAYERS})}  # fmt: skip
    for part, (source, changes) in shapes.items():
        config = msgspec.json.decode((PUBLISHED[source] / "config.json").read_bytes())
        (folder / part).mkdir(parents=True, exist_ok=True)
        write_json(folder / part / "config.json", config | changes)
    recipe = change(
        load_recipe("smollm2-135m"),
        {
            "vision.source": str(folder / "vision"),
            "vision.image_size": side,
            "vision.layer": -2,
            "language.source": str(folder / "language"),
            "connector.kind": "mlp",
        },
    )
    model = build_random(recipe, torch.device("cpu"))
    pixels_bchw = torch.randn(1, 3, side, side)
    embeds_btd = model.connector(model.vision(pixels_bchw))
    decoder, config = model.language.get_decoder(), model.language.config
    heads = (1, config.num_attention_heads, embeds_btd.shape[1], config.head_dim)
    query, key, value = torch.randn(3, *heads)
    attend = torch.nn.functional.scaled_dot_product_attention
    runs: dict[str, Callable[[], object]] = {
        ENCODER: lambda: model.vision(pixels_bchw),
        ATTENTION: lambda: attend(query, key, value, is_causal=True),
        PREFILL: lambda: decoder(inputs_embeds=embeds_btd, use_cache=True),
    }
    return {name: Value(value=cpu_seconds(run)) for name, run in runs.items()}


def cpu_seconds(run: Callable[[], object]) -> float:
    """Return the mean CPU seconds, over all threads, of runs after a first one."""
    run()
    began, count = time.process_time(), 0
    while time.process_time() - began < ENOUGH:
        run()
        count += 1
    return (time.process_time() - began) / count


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Return the power of the size that the cost grows as: the slope of a line in log-log.

    Not a number where the sizes are all the same.
    """
    x, y = ([math.log(one) for one in values] for values in (sizes, costs))
    middle, level = sum(x) / len(x), sum(y) / len(y)
    spread = sum((one - middle) ** 2 for one in x)
    products = sum((one - middle) * (two - level) for one, two in zip(x, y, strict=True))
    return products / spread if spread else math.nan


def _sizes(results: Results) -> list[str]:
    return [name for name in results.arms if name.endswith(" px")]


def _connectors(results: Results) -> list[str]:
    return [name for name in CONNECTORS if name in results.arms]


def _means(results: Results, measure: str) -> list[float]:
    return [results.spread(arm, measure).mean for arm in _sizes(results)]


def draw(results: Results) -> str:
    """Draw the cost against the tokens, as multiples of the smallest's, and what tokens buy."""
    tokens = _means(results, TOKENS)
    costs = {}
    for cost in COSTS:
        own = _means(results, cost)
        costs[cost] = [
            (at, Spread(one / own[0], math.nan, math.nan))
            for at, one in zip(tokens, own, strict=True)
        ]
    worth = {
        name: sorted(
            (results.spread(arm, TOKENS_LEFT).mean, results.spread(arm, measure))
            for arm in _connectors(results)
            if results.has(arm, measure)
        )
        for name, measure in {"small toys": SMALL, "large toys": LARGE, "count": "accuracy count",
                              "relation": "accuracy relation"}.items()
    }  # fmt: skip
    ticks = {results.spread(arm, TOKENS_LEFT).mean: arm for arm in _connectors(results)}
    named = {at: f"{at:g}\n{name.split()[0]}" for at, name in ticks.items()}
    return draw_panels(
        "resolution",
        [
            Panel(costs, across="tokens an image", up="times the cost of 112 px", log="xy",
                  title="What they cost"),
            Panel(worth, across="tokens an image, and how", up="share right", log="x",
                  ticks=named, title="What they buy"),
        ],
    )  # fmt: skip


def conclude(results: Results) -> Answer:
    """Say how the costs grow, and whether small things lose more by fewer tokens."""
    tokens = _means(results, TOKENS)
    powers = {cost: exponent(tokens, _means(results, cost)) for cost in COSTS}
    whole, *others = _connectors(results)
    fewest = min(others, key=lambda arm: results.spread(arm, TOKENS_LEFT).mean)
    lost = {
        size: results.difference(whole, fewest, measure)
        for size, measure in {"small": SMALL, "large": LARGE}.items()
        if results.has(whole, measure) and results.has(fewest, measure)
    }
    told = ", and ".join(
        f"{results.beside(whole, fewest, measure)} of those about {size} toys"
        for size, measure in {"small": SMALL, "large": LARGE}.items()
        if size in lost
    )
    all_, few = (results.spread(arm, TOKENS_LEFT).mean for arm in (whole, fewest))
    linear, quadratic = (abs(powers[cost] - power) < NEAR for cost, power in POWERS.items())
    return Answer(
        sentence=(
            f"As a power of the tokens, the KV cache grows with {powers[CACHE]:.2f} and the "
            f"attention's FLOPs with {powers[FLOPS]:.2f}; in measured seconds attention grows with "
            f"{powers[ATTENTION]:.2f}, the prefill with {powers[PREFILL]:.2f} and the encoder with "
            f"{powers[ENCODER]:.2f}. On the world, {all_:g} tokens an image against {few:g} answer "
            f"a share right of {told or 'nothing that was asked'}."
        ),
        foretold=" ".join(
            [
                verdict("the KV cache grows linearly and the attention's FLOPs quadratically",
                        linear and quadratic),
                verdict(
                    "small toys lose more than large ones by fewer tokens",
                    len(lost) == 2 and lost["small"].low > lost["large"].high,
                ),
            ]
        ),
        limits=(
            "The sizes measured are too small for attention to outweigh the rest of a layer, which "
            "is linear in the tokens; a prefill's exponent lies between 1 and 2 for that reason. "
            "On the world the image stays 112 pixels, and only the tokens that its patches are "
            "merged to change: what finer pixels would show is not measured. Toys lie on the grid "
            "of the patches, which favours few tokens. The perceiver is not pretrained."
        ),
    )  # fmt: skip
