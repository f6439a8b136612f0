"""Why does a second layer with GELU help, and when?

Features are passed through an invertible mixing of a strength (`model/vision/mixing.py`): the
stronger it is, the further is what the image shows from being read by a linear layer, and none of
it is lost. Two linear layers without GELU have the perceptron's weights and a single layer's
reach, so what they lack is not weights.
"""

from __future__ import annotations

import torch

from laterna.evaluation.tasks.base import IMAGE_FOLDER
from laterna.evaluation.tasks.world import TRUTH_FILE, read_truth
from laterna.lab.bench import Bench, Plan, score_value
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
from laterna.lab.measures.probes import HIDDEN, box_pool, image_features, probe_hits

STRENGTHS = (0.0, 0.5, 1.0, 2.0)
ENDS = (STRENGTHS[0], STRENGTHS[-1])
"""Strengths at which stage 2 is trained too."""
CONNECTORS = {
    "linear": {"connector.kind": "linear"},
    "two linear": {"connector.kind": "mlp", "connector.activation": "none"},
    "mlp": {"connector.kind": "mlp"},
}
PASSES = 3
"""Times as long as the recipe's stage 1: after that alone, no connector has come to its plateau."""
PLATEAU, CURVE = "stage-1 plateau", "stage-1 losses"
PROBED_IMAGES = 400


def plan() -> Plan:
    """Return how the experiment is carried out."""
    return Plan(
        done=(
            "The encoder's features are mixed with strength 0, ½, 1 or 2 by a fixed invertible "
            "map before they reach the connector. At each strength three connectors are trained "
            "in stage 1: one linear layer, two linear layers without anything between them, "
            f"and the perceptron; at strength 0 and 2 in stage 2 too. Stage 1 is {PASSES} times as "
            "long as elsewhere, and the plateau is the mean loss of its last tenth. A linear and a "
            "non-linear probe tell the category of a "
            "toy from the same features."
        ),
        arms=arms,
        measure=measure,
        table={
            "Stage 1": (PLATEAU, "linear probe", "non-linear probe"),
            "After stage 2": ("accuracy", "accuracy colour", "accuracy count", "accuracy relation",
                              "blank image"),
        },
        draw=draw,
        conclude=conclude,
        published=(
            "For 7B at 224 px LLaVA-1.5 (Table 2) reports GQA 46.8 → 47.3, MME 1323.8 → 1355.2 and "
            "MM-Vet 26.3 → 27.8 from a linear layer to two with GELU; MM1 calls the kind of "
            "connector negligible. What is published is small; large is what the strongest mixing "
            "here was made to ask for."
        ),
    )  # fmt: skip


def arms(bench: Bench) -> list[Arm]:
    """Return each connector at each strength."""
    longer = change(bench.recipe, {"align.epochs": bench.recipe.align.epochs * PASSES})
    return [
        Arm(
            name=_name(connector, strength),
            recipe=change(longer, {**changes, "vision.mixing": strength}),
            stages=("align", "instruct") if strength in ENDS else ("align",),
        )
        for strength in STRENGTHS
        for connector, changes in CONNECTORS.items()
    ]


def measure(bench: Bench, arm: Arm) -> Measures:
    """Train and ask; probe the features, which depend on the strength alone."""
    align = bench.train(arm, "align")
    losses = bench.losses(align)
    measures: Measures = {
        PLATEAU: bench.plateau(align),
        CURVE: Value(value=losses[-1], scores=tuple(losses)),
    }
    if "instruct" in arm.stages:
        measures |= bench.examine(bench.train(arm))
    if arm.recipe.connector.kind == "linear":
        measures |= _probes(bench, arm)
    return measures


def _probes(bench: Bench, arm: Arm) -> Measures:
    truths = read_truth(bench.world / TRUTH_FILE)[:PROBED_IMAGES]
    model = bench.load(bench.train(arm, "align")).model
    names = [truth.image for truth in truths]
    features = image_features(model, bench.world / IMAGE_FOLDER, names)
    pooled = [
        (box_pool(own, toy.box), toy.category)
        for own, truth in zip(features, truths, strict=True)
        for toy in truth.toys
    ]
    toys_bd, labels = torch.stack([one for one, _ in pooled]), [label for _, label in pooled]
    return {
        name: score_value(probe_hits(toys_bd, labels, seed=bench.seed, hidden=hidden))
        for name, hidden in {"linear probe": 0, "non-linear probe": HIDDEN}.items()
    }


def draw(results: Results) -> str:
    """Draw the losses at the strongest mixing, the plateaus and the accuracies."""
    strongest = STRENGTHS[-1]
    curves = {
        connector: [
            (float(step), Spread(loss, float("nan"), float("nan")))
            for step, loss in enumerate(_mean_curve(results, _name(connector, strongest)), start=1)
        ]
        for connector in CONNECTORS
    }
    over = {
        measure: {
            connector: [
                (strength, results.spread(_name(connector, strength), measure))
                for strength in places
            ]
            for connector in CONNECTORS
        }
        for measure, places in ((PLATEAU, STRENGTHS), ("accuracy", ENDS))
    }
    return draw_panels(
        "projector",
        [
            Panel(
                curves,
                across="step of stage 1",
                up="loss (nats a token)",
                title=f"Losses at strength {strongest:g}",
            ),
            Panel(
                over[PLATEAU],
                across="strength of the mixing",
                up="loss (nats a token)",
                title="Where stage 1 ends",
            ),
            Panel(
                over["accuracy"],
                across="strength of the mixing",
                up="share right",
                title="After stage 2",
                level={"blank image": results.spread(_name("mlp", ENDS[-1]), "blank image").mean},
            ),
        ],
    )


def conclude(results: Results) -> Answer:
    """Say where the perceptron is ahead in the plateau, and whether that grows."""
    none, strong = ENDS
    others = ("linear", "two linear")
    above = {
        strength: [
            results.difference(_name(other, strength), _name("mlp", strength), PLATEAU).sign
            for other in others
        ]
        for strength in ENDS
    }
    ends = "; ".join(
        f"at strength {strength:g} "
        + ", ".join(
            f"`{other}` {results.beside(_name(other, strength), _name('mlp', strength), PLATEAU)}"
            for other in others
        )
        for strength in ENDS
    )
    right = ", and at ".join(
        f"{strength:g} "
        + results.beside(_name("mlp", strength), _name("linear", strength), "accuracy")
        for strength in ENDS
    )
    return Answer(
        sentence=(
            f"Stage 1 ends, against the `mlp`, with a loss of: {ends} nats a token. After stage 2 "
            f"the `mlp` answers right, against `linear`, at strength {right}."
        ),
        foretold=" ".join(
            [
                verdict(
                    "the linear connectors tie with the `mlp` where features are not mixed",
                    above[none] == [0, 0],
                ),
                verdict(f"both end above it at strength {strong:g}", above[strong] == [1, 1]),
            ]
        ),
        limits=(
            "The mixing is made for this experiment; how much of it the features of a published "
            "encoder have is not measured here. In stage 2 the language model learns too, and can "
            "make up for a weak connector."
        ),
    )  # fmt: skip


def _name(connector: str, strength: float) -> str:
    return f"{connector}, {strength:g}"


def _mean_curve(results: Results, arm: str) -> list[float]:
    curves = [measures[CURVE].scores for measures in results.arms[arm]]
    return [sum(losses) / len(losses) for losses in zip(*curves, strict=False)]
