"""The experiment on fusions: equal weights and steps, and questions about one of several images."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from laterna.lab import fusion
from laterna.lab.bench import Bench, Size, score_value
from laterna.lab.experiment import Results, differences
from laterna.lab.fusion import CROSS, EARLIER, ENCODER, FROZEN, LAST, NUMBERS, PREFIX, TRAINED
from laterna.recipe import load_recipe
from laterna.records import Question, Truth
from laterna.world.scenes import draw_truth
from laterna.world.toys import CATEGORIES

SMALL = Size(images=40, validation_images=2, align_steps=1, instruct_steps=1)
SCENES = [draw_truth("world", 5, index) for index in range(120)]
OF = {truth.image: truth for truth in SCENES}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("lab"), load_recipe("nano"), seed=0, size=SMALL)


def showing(question: Question) -> tuple[int, str]:
    """Return the one place where such a thing is, and its colour, read anew."""
    thing = next(name for name in CATEGORIES if f" {name}" in question.text)
    found: list[tuple[int, str]] = []
    for place, name in enumerate(question.images):
        truth: Truth = OF[name]
        found += [(place, toy.colour) for toy in truth.toys if toy.category == thing]
    assert len(found) == 1, question
    return found[0]


def test_one_image_of_a_row_shows_what_is_asked_about_at_any_place() -> None:
    numbers = [number for number in NUMBERS for _ in range(60)]
    questions = list(fusion.rows_of(SCENES, iter(numbers), np.random.default_rng(1)))
    assert [len(question.images) for question in questions] == numbers
    places: Counter[int] = Counter()
    for question in questions:
        assert len(set(question.images)) == len(question.images)
        place, colour = showing(question)
        assert question.references == (colour,)
        last = place == len(question.images) - 1
        where = "" if len(question.images) == 1 else LAST if last else EARLIER
        assert question.fields["where"] == where
        places[place] += len(question.images) == 4
    assert all(places[place] > 5 for place in range(4))


def test_the_arms_have_as_many_weights_and_steps_and_the_same_records(bench: Bench) -> None:
    arms = {arm.name: arm.recipe for arm in fusion.arms(bench)}
    prefix, cross = (arms[f"{name}, {TRAINED}"] for name in (PREFIX, CROSS))
    weights = [fusion.joining_weights(recipe) for recipe in arms.values()]
    assert max(weights) - min(weights) <= 0.005 * max(weights)
    assert fusion.joining_weights(fusion._pooled(load_recipe("nano"))) < 0.2 * max(weights)
    told = differences(prefix, cross)
    assert told.startswith("connector.width = ")
    assert all(one.startswith(("connector.width", "fusion.")) for one in told.split(", "))
    attention = [arms[f"{name}, {FROZEN}"].run.attention for name in (PREFIX, CROSS, ENCODER)]
    assert attention == ["varlen", "varlen", "sdpa"]  # T5's layers attend by sdpa alone
    for name in (PREFIX, CROSS):
        trained, frozen = arms[f"{name}, {TRAINED}"], arms[f"{name}, {FROZEN}"]
        assert trained.instruct.language.mode == "full"
        assert differences(trained, frozen) == (
            "instruct.language.mode = frozen, instruct.language.lr = 0.0"
        )
    rows = json.loads(Path(prefix.instruct.data).read_bytes())
    assert len(rows) > 90
    assert {len(row["image"]) if isinstance(row["image"], list) else 1 for row in rows} == {
        *NUMBERS
    }
    for row in rows:
        names = row["image"] if isinstance(row["image"], list) else [row["image"]]
        assert row["conversations"][0]["value"].count("<image>\n") == len(names)


def test_what_a_chat_keeps_grows_with_its_images() -> None:
    recipe = fusion._pooled(load_recipe("nano"))
    kept = {number: fusion.kept(recipe)[f"KiB kept, {number}"].value for number in NUMBERS}
    image = (kept[2] - kept[1]) * 1024
    assert image == 16 * 4 * 2 * 192 * 4  # tokens, layers, keys and values, width, bytes
    assert kept[16] - kept[1] == pytest.approx(15 * image / 1024)


def results(frozen: list[float], trained: list[float]) -> Results:
    """The prefix has half right; cross-attention what is given."""
    half = [0.0, 1.0] * 20
    measures = {
        f"{PREFIX}, {FROZEN}": half,
        f"{PREFIX}, {TRAINED}": half,
        f"{CROSS}, {FROZEN}": frozen,
        f"{CROSS}, {TRAINED}": trained,
    }
    names = ("accuracy", LAST, EARLIER)
    return Results(
        arms={arm: ({n: score_value(s) for n in names},) for arm, s in measures.items()},
        seeds=(0,),
    )


def test_the_sentence_follows_the_numbers() -> None:
    ones, noughts, half = [1.0] * 40, [0.0] * 40, [0.0, 1.0] * 20
    found = fusion.conclude(results(ones, noughts)).sentence
    assert "frozen, cross-attention is ahead of (+0.500 share right" in found
    assert "trained, cross-attention is behind (-0.500 share right" in found
    assert "as Idefics2 found it" in found
    for other in (results(noughts, ones), results(half, half), results(ones, ones)):
        assert "not the reversal that Idefics2 found" in fusion.conclude(other).sentence
