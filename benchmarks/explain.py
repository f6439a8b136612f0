"""Whether explanations point at what was asked about, on the tabletop world, where that is known.

    python benchmarks/explain.py CHECKPOINT WORLD [--questions 100] [--windows 1] [--out FILE]

WORLD is a folder of `laterna world`, such as a demo's `world/validation`. Questions are those of
the world's task that are about one toy in an image with others. The model's own answer is
explained; a map's mass (occlusion: the drops above 0; relative attention: the ratios) inside the
box of the toy asked about is set beside the box's share of the area and beside the boxes of the
others.
Controls: the same words about another image, and an untrained connector in the place of the
trained one. Intervals are of 95 %, images drawn whole (`laterna.evaluation.statistics`).
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import random
import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

import laterna
from laterna.evaluation.metrics import METRICS
from laterna.evaluation.statistics import interval
from laterna.evaluation.tasks.world import read_truth, single_toys, world_questions
from laterna.inference.assistant import Assistant
from laterna.inference.explanation import Map
from laterna.model.connectors import build_connector
from laterna.records import Box, Question

KINDS = ("colour", "place", "kind")
"""Kinds of questions that are about one toy."""


class Case(NamedTuple):
    """A question, the box of the toy it is about, and those of the other toys."""

    question: Question
    image: Image.Image
    box: Box
    others: tuple[Box, ...]


def cases(folder: Path, count: int, seed: int) -> list[Case]:
    """Return questions about one toy among others, one an image, kinds in turn."""
    truths = {truth.image: truth for truth in read_truth(folder / "truth.jsonl")}
    found: dict[str, list[Case]] = {kind: [] for kind in KINDS}
    used: set[str] = set()
    for question in world_questions(folder, limit=0, seed=seed):
        truth = truths[question.images[0]]
        words = {*re.findall(r"\w+", question.text), question.references[0]}
        about = [toy for toy in single_toys(truth) if toy.category in words]
        fewest = min(KINDS, key=lambda kind: len(found[kind]))
        if truth.image in used or question.kind != fewest:
            continue
        if len(about) == 1 and len(truth.toys) > 1:
            used.add(truth.image)
            others = tuple(toy.box for toy in truth.toys if toy is not about[0])
            image = Image.open(folder / "images" / truth.image).convert("RGB")
            found[question.kind].append(Case(question, image, about[0].box, others))
    every = [case for kind in KINDS for case in found[kind]]
    random.Random(seed).shuffle(every)
    return every[:count]


def inside(values: Sequence[Sequence[float]], box: Box) -> float:
    """Return the share of a map's mass in a box; cells count as far as they lie in it."""
    mass_yx = np.clip(np.asarray(values, dtype=np.float64), 0, None)
    rows, columns = mass_yx.shape
    down = _cover(rows, box.y1, box.y2)
    across = _cover(columns, box.x1, box.x2)
    return float(down @ mass_yx @ across / mass_yx.sum())


def _cover(cells: int, start: float, end: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    edges = np.arange(cells + 1) / cells
    return np.clip(np.minimum(edges[1:], end) - np.maximum(edges[:-1], start), 0, None) * cells


def area(box: Box) -> float:
    """Return a box's share of the image."""
    return (box.x2 - box.x1) * (box.y2 - box.y1)


def measured(assistant: Assistant, given: Sequence[Case], answers: Sequence[str],
             images: Sequence[Image.Image], windows: Sequence[int]) -> dict[str, Any]:  # fmt: skip
    """Return the figures of each map, over the cases that have any mass."""
    rows: dict[str, list[dict[str, float]]] = defaultdict(list)
    clusters: dict[str, list[str]] = defaultdict(list)
    empty: Counter[str] = Counter()
    for case, answer, image in zip(given, answers, images, strict=True):
        for name, values in _maps(assistant, image, case.question.text, answer, windows):
            if max(map(max, values)) <= 0:
                empty[name] += 1
                continue
            rows[name].append(_row(values, case))
            clusters[name].append(case.question.images[0])
    return {
        name: {
            "questions": len(found),
            "without_mass": empty[name],
            **{
                key: interval([row[key] for row in found], clusters[name])._asdict()
                for key in found[0]
            },
        }
        for name, found in rows.items()
    }


def _row(values: Map, case: Case) -> dict[str, float]:
    box, others = case.box, case.others
    other = float(np.mean([inside(values, one) for one in others]))
    top = np.unravel_index(np.argmax(np.asarray(values)), (len(values), len(values[0])))
    at = ((top[1] + 0.5) / len(values[0]), (top[0] + 0.5) / len(values))
    hit = box.x1 <= at[0] <= box.x2 and box.y1 <= at[1] <= box.y2
    return {
        "mass": inside(values, box),
        "area": area(box),
        "mass_of_another": other,
        "area_of_another": float(np.mean(list(map(area, others)))),
        "difference": inside(values, box) - other,
        "highest_cell_inside": float(hit),
    }


def _maps(
    assistant: Assistant, image: Image.Image, text: str, answer: str, windows: Sequence[int]
) -> Iterator[tuple[str, Map]]:
    for window in windows:
        found = assistant.explain(image, text, answer, window=window).occlusion
        assert found is not None
        yield f"occlusion, window {window}", found.overall
    looked = assistant.explain(image, text, answer, ("attention",)).attention
    assert looked is not None
    yield "relative attention", looked.overall


def untrained(assistant: Assistant, images: Sequence[Image.Image], seed: int) -> Assistant:
    """Return the assistant with a fresh connector, fitted to the features as before training."""
    model = copy.deepcopy(assistant.model)
    assert model.recipe is not None
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        table = model.language.get_input_embeddings().weight
        fresh = build_connector(model.recipe.connector, model.vision.width, table.shape[1])
        if model.recipe.connector.calibrate:
            length = float(table.norm(dim=1).square().mean().sqrt())
            fresh.calibrate(model.vision(model.prepare(list(images))), length)
    model.connector = fresh.eval()
    return Assistant(model)


def main() -> None:
    """Measure, print a table, and write all figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("world", type=Path)
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--windows", type=int, nargs="+", default=[1])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    assistant = laterna.load(args.checkpoint, device="cpu")
    given = cases(args.world, args.questions, args.seed)
    begun = time.process_time()
    answers = list(
        assistant.answer([(case.image, case.question.text) for case in given], max_new_tokens=16)
    )
    images = [case.image for case in given]
    shuffled = images[1:] + images[:1]
    sides = {
        "trained": (assistant, images),
        "another image": (assistant, shuffled),
        "untrained connector": (untrained(assistant, images[:32], args.seed), images),
    }
    right = METRICS["exact_match"].score([case.question for case in given], answers)
    figures = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "torch": torch.__version__,
        "questions": len(given),
        "kinds": dict(Counter(case.question.kind for case in given)),
        "images": len({case.question.images[0] for case in given}),
        "right": sum(right),
        "sides": {
            name: measured(one, given, answers, shown, args.windows)
            for name, (one, shown) in sides.items()
        },
    }
    figures["cpu_seconds"] = round(time.process_time() - begun, 1)
    print(table(figures))
    if args.out:
        args.out.write_text(json.dumps(figures, indent=2) + "\n")


def table(figures: dict[str, Any]) -> str:
    """Return the figures as a Markdown table."""
    lines = [
        "| map | model | mass in the box asked about | its area | mass in another's box | "
        "its area | highest cell in the box |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in figures["sides"]["trained"]:
        for side, maps in figures["sides"].items():
            one = maps[name]
            cells = [_told(one["mass"]), f"{100 * one['area']['mean']:.1f} %",
                     _told(one["mass_of_another"]), f"{100 * one['area_of_another']['mean']:.1f} %",
                     _told(one["highest_cell_inside"])]  # fmt: skip
            lines.append(f"| {name} | {side} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _told(found: dict[str, Any]) -> str:
    return f"{100 * found['mean']:.1f} % ({100 * found['low']:.1f} to {100 * found['high']:.1f})"


if __name__ == "__main__":
    main()
