"""How should images meet the language model: in its row, beside it, or in an encoder?

Idefics2 finds cross-attention ahead while language model and encoder stay frozen, and the prefix
ahead once they learn. So each fusion is trained with both, with as many weights that join image and
language and as many steps; and a row holds 1 to 16 images, of which one shows what is asked about.

Under cross-attention a question sees the last image alone, and what was read of the others at their
marks, before it was known what would be asked: so the last image and earlier ones are told apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from msgspec.structs import replace

from laterna.errors import LaternaError
from laterna.evaluation.asking import Asked, Shown, ask
from laterna.evaluation.tasks.base import IMAGE_FOLDER
from laterna.evaluation.tasks.wordings import COLOUR_QUESTIONS
from laterna.evaluation.tasks.world import TRUTH_FILE, read_truth, single_toys
from laterna.files import write_atomically
from laterna.lab.bench import Bench, Plan, scored, spent
from laterna.lab.drawing import Panel, draw_panels
from laterna.lab.experiment import Answer, Arm, Measures, Results, Value, change, compared
from laterna.model.build import build_on_meta
from laterna.model.sources import BUILTIN, SHIPPED
from laterna.planner.dry_run import DryRun, count_cache
from laterna.recipe import PartSettings, Recipe, load_recipe, shipped_recipes
from laterna.records import DEFAULT_IMAGE_TOKEN, InstructionRecord, Question, Toy, Truth, Turn
from laterna.records import Answer as Answered
from laterna.scenes.phrases import SHORT_ANSWER
from laterna.scenes.sampling import pick
from laterna.synthesis.outputs.llava import write_llava

PREFIX, CROSS, ENCODER = "prefix", "cross-attention", "encoder-decoder"
RECIPES = {CROSS: "nano-flamingo", ENCODER: "nano-pali"}
"""Fusion to the shipped recipe that it is taken from; one that is not shipped has no arm."""
FROZEN, TRAINED = "frozen", "trained"
NUMBERS: Mapping[int, float] = {1: 0.4, 2: 0.25, 4: 0.17, 8: 0.12, 16: 0.06}
"""Images in a row, and the share of the records that have so many: long rows cost most."""
MOST = max(NUMBERS)
LAST, EARLIER, BLANK = "last image", "earlier image", "blank images"
WEIGHTS, MILLION = "million joining weights", 1e6
ASKED, FEW_ASKED = 80, 16
"""Questions for each number of images; where the steps are cut short, few."""
TEXT = 24
"""Tokens of a question, about."""
TOKENS = 8
"""Longest answer."""


def plan() -> Plan:
    """Return how the experiment is carried out."""
    return Plan(
        done=(
            "A row holds 1, 2, 4, 8 or 16 images, of which exactly one shows a thing of the kind "
            "that is asked about: what colour does it have? Each fusion is trained in both stages, "
            "on the same records in as many steps, with as many weights that join image and "
            "language (connector and blocks; the connectors' perceptrons are widened until they "
            "are equal), once with the language model frozen in stage 2 and once trained. The "
            "encoder is frozen, and an image becomes 16 tokens. `last image` and `earlier image` "
            "are the questions about rows of several, by where the thing is. What is kept is the "
            "cache of the row and beside it, by the planner."
        ),
        arms=arms,
        measure=measure,
        table={
            "Right answers, by images in the row": ("accuracy", *map(_right, NUMBERS)),
            "By the place of the image, and blank": (LAST, EARLIER, BLANK),
            "What it costs": (WEIGHTS, _seconds(1), _seconds(MOST), _kept(1), _kept(MOST)),
        },
        draw=draw,
        conclude=conclude,
    )


def arms(bench: Bench) -> list[Arm]:
    """Return each fusion with the language model frozen and trained, all with as many weights."""
    joined = {PREFIX: bench.recipe}
    for fusion, name in RECIPES.items():
        if own := _shipped(name):
            joined[fusion] = replace(bench.recipe, fusion=own.fusion)
            if fusion == ENCODER:
                # The encoder's rows are apart by themselves: no attention by samples is needed.
                run = replace(bench.recipe.run, attention=own.run.attention)
                joined[fusion] = replace(joined[fusion], language=own.language, run=run)
    data = str(_lessons(bench))
    recipes = [change(_pooled(one), {"instruct.data": data}) for one in joined.values()]
    most = max(map(joining_weights, recipes))
    found = []
    for fusion, recipe in zip(joined, recipes, strict=True):
        wide = change(recipe, {"connector.width": width_for(recipe, most)})
        found.append(Arm(name=_name(fusion, TRAINED), recipe=wide))
        frozen = change(wide, {"instruct.language": PartSettings()})
        found.append(Arm(name=_name(fusion, FROZEN), recipe=frozen))
    return found


def _shipped(name: str) -> Recipe | None:
    """Return a recipe of this name that ships with its language model; None: it does not."""
    if name not in shipped_recipes():
        return None
    recipe = load_recipe(name)
    place = BUILTIN.get(recipe.language.source.removeprefix(SHIPPED))
    return recipe if place is not None and place.is_dir() else None


def _pooled(recipe: Recipe) -> Recipe:
    """Return a recipe whose images are a quarter of their patches: 16 of them then fit a row.

    Records with several images share none, and nothing else may differ between the fusions.
    """
    connector = replace(recipe.connector, kind="pool", depth=2, merge="shuffle", merge_side=2)
    stages = {"align.shared_prefix": False, "instruct.shared_prefix": False}
    return change(replace(recipe, connector=connector), stages)


@lru_cache(maxsize=32)
def joining_weights(recipe: Recipe) -> int:
    """Return how many weights a recipe's connector and fusion have."""
    part = build_on_meta(recipe).parts()["connector"]
    return sum(weight.numel() for weight in part.parameters())


def width_for(recipe: Recipe, weights: int) -> int:
    """Return how wide the perceptron must be for so many joining weights: they grow evenly."""
    one, two = (joining_weights(change(recipe, {"connector.width": w})) for w in (1, 2))
    return max(1, round((weights - one) / (two - one)) + 1)


def _lessons(bench: Bench) -> Path:
    """Write what stage 2 learns from, unless it is there: three records for each of its images."""
    path = bench.cached("one-of-several.json")
    images = bench.images  # drawn, if they are not there
    if not path.exists():
        truths = read_truth(images.parent / TRUTH_FILE)
        rng = np.random.default_rng([bench.seed, len(truths)])
        shares = np.array(list(NUMBERS.values()))
        numbers = rng.choice(list(NUMBERS), size=3 * len(truths), p=shares / shares.sum())
        with write_atomically(path) as aside:
            write_llava(aside, map(_lesson, rows_of(truths, map(int, numbers), rng)))
    return path


def rows_of(
    truths: Sequence[Truth], numbers: Iterator[int], rng: np.random.Generator
) -> Iterator[Question]:
    """Yield a question for each number of images: one of them shows such a thing, at a place that
    is drawn, and no other does. A number that the images do not allow is left out.
    """
    kinds = {truth.id: {toy.category for toy in truth.toys} for truth in truths}
    for count, number in enumerate(numbers):
        truth, toy = _asked_about(truths, rng)
        others = [one for one in truths if toy.category not in kinds[one.id]]
        if len(others) < number - 1:
            continue
        chosen = rng.choice(len(others), number - 1, replace=False)
        row = [others[int(place)] for place in chosen]
        place = int(rng.integers(number))
        row.insert(place, truth)
        text = pick(COLOUR_QUESTIONS, rng).format(thing=toy.category) + SHORT_ANSWER
        yield Question(
            id=f"{count}",
            images=tuple(one.image for one in row),
            kind=_right(number),
            text=text,
            references=(toy.colour,),
            fields={"where": "" if number == 1 else LAST if place == number - 1 else EARLIER},
        )


def _asked_about(truths: Sequence[Truth], rng: np.random.Generator) -> tuple[Truth, Toy]:
    while True:
        truth = pick(truths, rng)
        if toys := single_toys(truth):
            return truth, pick(toys, rng)


def _lesson(question: Question) -> InstructionRecord:
    marks = f"{DEFAULT_IMAGE_TOKEN}\n" * len(question.images)
    return InstructionRecord(
        id=question.id,
        images=question.images,
        turns=(
            Turn(role="user", text=marks + question.text),
            Turn(role="assistant", text=question.references[0], loss=True),
        ),
        kind="conversation",
    )


def measure(bench: Bench, arm: Arm) -> Measures:
    """Train both stages; ask about each number of images, and about as many blank ones."""
    assistant = bench.load(bench.train(arm))
    truths = read_truth(bench.validation / TRUTH_FILE)
    rng = np.random.default_rng([bench.seed, 1])
    measures: Measures = {WEIGHTS: Value(value=joining_weights(arm.recipe) / MILLION)}
    answers: list[Answered] = []
    blank: list[Answered] = []

    def put(questions: Sequence[Question], shown: Shown = "own") -> Asked:
        images = bench.validation / IMAGE_FOLDER
        return ask(assistant, questions, images, max_new_tokens=TOKENS, shown=shown, progress=False)

    asked = FEW_ASKED if bench.size.instruct_steps else ASKED
    for number in NUMBERS:
        questions = list(rows_of(truths, iter([number] * asked), rng))
        began = spent()
        found = put(questions).answers
        took = (spent() - began).processor_seconds
        measures[_right(number)] = scored(found)
        measures[_seconds(number)] = Value(value=took / max(1, len(found)))
        answers += found
        blank += put(questions[: asked // 4], "blank").answers
    for where in (LAST, EARLIER):
        measures[where] = scored([one for one in answers if one.question.fields["where"] == where])
    measures["accuracy"] = scored(answers)
    measures[BLANK] = scored(blank)
    return measures | kept(arm.recipe)


def kept(recipe: Recipe) -> Measures:
    """Return the bytes that a chat about each number of images keeps, in KiB; none where the
    planner does not know.
    """
    dry_run = DryRun(build_on_meta(recipe))
    image = dry_run.image
    try:
        return {
            _kept(number): Value(
                value=(
                    count_cache(dry_run, TEXT + number * image.tokens)
                    + dry_run.beside_bytes(number * image.beside)
                )
                / 1024
            )
            for number in NUMBERS
        }
    except LaternaError:
        return {}


def draw(results: Results) -> str:
    """Draw accuracy, time and what is kept against the number of images."""

    def panel(name_of: Callable[[int], str], up: str, title: str, log: str) -> Panel:
        series = {
            arm: [
                (float(number), results.spread(arm, name_of(number)))
                for number in NUMBERS
                if results.has(arm, name_of(number))
            ]
            for arm in results.arms
        }
        ticks = {float(number): str(number) for number in NUMBERS}
        return Panel(series, across="images in a row", up=up, title=title, log=log, ticks=ticks)

    return draw_panels(
        "fusion",
        [
            panel(_right, "share right", "Asked about one of them", "x"),
            panel(_seconds, "processor seconds", "To answer", "xy"),
            panel(_kept, "KiB", "Kept of a chat", "xy"),
        ],
    )


def conclude(results: Results) -> Answer:
    """Say which is ahead with the language model frozen and trained, and what many images do."""
    others = [one for one in (CROSS, ENCODER) if _name(one, TRAINED) in results.arms]
    told = []
    for mode, words in ((FROZEN, "frozen"), (TRAINED, "trained")):
        for other in others:
            more = results.difference(_name(other, mode), _name(PREFIX, mode), "accuracy")
            told.append(
                f"with the language model {words}, {other} is {compared(more, 'share right')} the "
                "prefix"
            )
    signs = [
        results.difference(_name(CROSS, mode), _name(PREFIX, mode), "accuracy").sign
        for mode in (FROZEN, TRAINED)
    ]
    verdict = {(1, -1): "as Idefics2 found it"}.get(
        (signs[0], signs[1]), "which is not the reversal that Idefics2 found"
    )
    place = results.difference(_name(CROSS, TRAINED), _name(CROSS, TRAINED), LAST, EARLIER)
    answer = "; ".join(told)
    return Answer(
        sentence=(
            f"{answer[0].upper()}{answer[1:]}: {verdict}. Under trained cross-attention the share "
            f"right about the last image less that about earlier ones is {place.mean:+.3f}."
        ),
        limits=(
            "The models are small, the steps few, and the questions are of one kind; the wide "
            "perceptron that makes the weights equal is no part of LLaVA. The blocks begin half "
            "open and look at all 16 tokens, without Flamingo's resampler. Idefics2 trained its "
            "language model by adapters, where all of it learns here."
        ),
    )


def _right(number: int) -> str:
    return f"right, {number}"


def _seconds(number: int) -> str:
    return f"processor s, {number}"


def _kept(number: int) -> str:
    return f"KiB kept, {number}"


def _name(fusion: str, language: str) -> str:
    return f"{fusion}, {language}"
