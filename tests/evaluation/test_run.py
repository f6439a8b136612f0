"""Asking and scoring: every image once, skips by reason, controls over the same questions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import msgspec
import pytest
from PIL import Image

from laterna.data.images.fitting import blank
from laterna.errors import LaternaError
from laterna.evaluation import asking
from laterna.evaluation.run import ask, evaluate, figures, score_table
from laterna.evaluation.scores import score
from laterna.evaluation.statistics import wilson
from laterna.inference.assistant import Assistant
from laterna.inference.generation import Decoding, Prompt, generate_answers
from laterna.model.build import build_from_recipe
from laterna.model.vlm import VisionLanguageModel
from laterna.recipe import Recipe
from laterna.records import Answer, Box, Question, Score, Toy, Truth

RED, BLUE = (200, 0, 0), (0, 0, 200)
GREY = (122, 116, 104)


def assistant(name: str = "tuned") -> Assistant:
    """Stands for a model: all that asking needs of it is its blank image."""
    prepare = SimpleNamespace(blank=lambda width, height: blank((width, height)))
    return cast(Assistant, SimpleNamespace(model=SimpleNamespace(name=name, prepare=prepare)))


class Seer:
    """Answers with the colour of the image's first pixel, and remembers its batches."""

    def __init__(self) -> None:
        self.batches: list[list[Prompt]] = []

    def __call__(
        self, model: VisionLanguageModel, prompts: Sequence[Prompt], decoding: Decoding
    ) -> list[str]:
        self.batches.append(list(prompts))
        if getattr(model, "name", "") == "untuned":
            return ["what?"] * len(prompts)
        names = {RED: "Red.", BLUE: "blue", GREY: "grey"}
        return [names[images[0].getpixel((0, 0))] if images else "dark" for _, images in prompts]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for name, colour in (("red.png", RED), ("blue.png", BLUE)):
        Image.new("RGB", (8, 8), colour).save(folder / name)
    (folder / "text.png").write_text("not an image")
    return folder


def question(number: int, image: str, truth: str, kind: str = "colour") -> Question:
    return Question(id=str(number), images=(image,), kind=kind, text="Which?", references=(truth,))


def test_answers_come_in_the_order_of_the_questions(images: Path) -> None:
    names = ["red.png", "blue.png", "red.png", "blue.png", "blue.png"]
    questions = [question(i, name, "red") for i, name in enumerate(names)]
    seer = Seer()
    asked = ask(assistant(), questions, images, batch=2, answer=seer, progress=False)
    assert [a.question for a in asked.answers] == questions
    assert [a.text for a in asked.answers] == ["Red.", "blue", "Red.", "blue", "blue"]
    assert [a.score for a in asked.answers] == [True, False, True, False, False]
    assert [len(prompts) for prompts in seer.batches] == [2, 2, 1]


def test_a_prompt_is_one_user_turn_with_the_image_before_the_question(images: Path) -> None:
    seer = Seer()
    ask(assistant(), [question(0, "red.png", "red")], images, answer=seer, progress=False)
    ((turns, shown),) = seer.batches[0]
    assert [(turn.role, turn.text) for turn in turns] == [("user", "<image>\nWhich?")]
    assert [image.size for image in shown] == [(8, 8)]


def test_each_image_is_decoded_once(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def load(path: Path, name: str) -> Image.Image:
        opened.append(name)
        return Image.open(path).convert("RGB")

    monkeypatch.setattr(asking, "load_image", load)
    questions = [question(i, ("red.png", "blue.png")[i % 2], "red") for i in range(20)]
    ask(assistant(), questions, images, batch=3, answer=Seer(), progress=False)
    assert opened == ["blue.png", "red.png"]


def test_unreadable_images_are_skipped_with_their_reason(images: Path) -> None:
    names = ["gone.png", "red.png", "text.png", "gone.png"]
    questions = [question(i, name, "red") for i, name in enumerate(names)]
    asked = ask(assistant(), questions, images, answer=Seer(), progress=False)
    assert [a.question.id for a in asked.answers] == ["1"]
    assert [(s.question.id, s.reason) for s in asked.skipped] == [
        ("0", "image missing"),
        ("2", "image cannot be read"),
        ("3", "image missing"),
    ]
    assert str(images / "text.png") in asked.skipped[1].message


def test_blank_images_are_as_large_as_those_they_stand_for(images: Path) -> None:
    Image.new("RGB", (30, 7), RED).save(images / "wide.png")
    names = ["red.png", "wide.png", "gone.png", "text.png"]
    questions = [question(number, name, "red") for number, name in enumerate(names)]
    seer = Seer()
    asked = ask(assistant(), questions, images, shown="blank", answer=seer, progress=False)
    assert [a.text for a in asked.answers] == ["grey", "grey"]
    assert [shown.size for _, (shown,) in seer.batches[0]] == [(8, 8), (30, 7)]
    reasons = [(s.question.id, s.reason) for s in asked.skipped]
    assert reasons == [("2", "image missing"), ("3", "image cannot be read")]


def test_under_anyres_a_blank_image_takes_as_many_tokens(images: Path, tiny_recipe: Recipe) -> None:
    grids = ((1, 2), (2, 1), (2, 2))
    vision = msgspec.structs.replace(tiny_recipe.vision, fit="anyres", grids=grids)
    tiled = build_from_recipe(msgspec.structs.replace(tiny_recipe, vision=vision))
    sizes = [(60, 20), (20, 60), (50, 50)]
    for width, height in sizes:
        Image.new("RGB", (width, height), RED).save(images / f"{width}.png")
    questions = [question(number, f"{side}.png", "red") for number, (side, _) in enumerate(sizes)]
    seen: list[int] = []

    def count(
        assistant: VisionLanguageModel, prompts: Sequence[Prompt], decoding: Decoding
    ) -> list[str]:
        seen.extend(
            len(tokens) for _, shown in prompts for tokens in assistant.encode_images(shown)
        )
        return ["red"] * len(prompts)

    plain: asking.Shown
    for plain in ("own", "blank"):
        ask(Assistant(tiled), questions, images, shown=plain, answer=count, progress=False)
    counted = [tiled.image_tokens(*size) for size in sorted(sizes)]  # as the names are sorted
    assert counted == [16, 24, 14]
    assert seen == counted * 2


def test_the_engine_answers_what_batches_by_generate_do(tiny_recipe: Recipe, images: Path) -> None:
    vision = msgspec.structs.replace(tiny_recipe.vision, fit="anyres", grids=((1, 2), (2, 1)))
    tiled = Assistant(build_from_recipe(msgspec.structs.replace(tiny_recipe, vision=vision)))
    Image.new("RGB", (60, 20), BLUE).save(images / "wide.png")
    names = ["red.png", "wide.png", "blue.png", "gone.png"] * 3
    questions = [question(number, name, "red") for number, name in enumerate(names)]
    by_engine = ask(tiled, questions, images, progress=False)
    by_generate = ask(tiled, questions, images, answer=generate_answers, batch=5, progress=False)
    assert [(a.question, a.text, a.score) for a in by_engine.answers] == [
        (a.question, a.text, a.score) for a in by_generate.answers
    ]
    assert by_engine.skipped == by_generate.skipped
    assert all(0 < (a.probability or 0) < 1 for a in by_engine.answers)
    assert len({answer.text for answer in by_engine.answers}) > 1
    assert len(by_engine.skipped) == 3
    assert tiled.engine.stats().image_queries == 9
    assert tiled.engine.stats().image_hits == 6


def test_a_wrong_number_of_answers_is_no_answer(images: Path) -> None:
    def one_short(
        _: VisionLanguageModel, prompts: Sequence[Prompt], decoding: Decoding
    ) -> list[str]:
        return ["red"] * (len(prompts) - 1)

    with pytest.raises(ValueError, match="shorter"):
        ask(
            assistant(),
            [question(0, "red.png", "red")],
            images,
            answer=one_short,
            progress=False,
        )


def test_score_counts_over_all_and_by_kind() -> None:
    rights = [("count", True), ("colour", False), ("count", False), ("count", True)]
    scores = score(
        Answer(question=question(i, "a", "b", kind), text="", score=float(right))
        for i, (kind, right) in enumerate(rights)
    )
    assert scores.overall == Score(name="overall", sum=2, total=4)
    assert scores.kinds == (
        Score(name="colour", sum=0, total=1),
        Score(name="count", sum=2, total=3),
    )


def test_an_answer_without_a_score_is_in_no_sum_and_every_sum_has_its_interval() -> None:
    given = [("count", 1.0), ("count", 0.0), ("count", math.nan), ("colour", math.nan)]
    scores = score(
        Answer(question=question(i, f"{i}.png", "b", kind), text="", score=value)
        for i, (kind, value) in enumerate(given)
    )
    assert scores.overall == Score(name="overall", sum=1, total=2)
    assert scores.kinds[1] == Score(name="count", sum=1, total=2)
    assert scores.kinds[0].total == 0
    assert scores.values == {"exact_match.accuracy": 0.5}
    assert scores.intervals["count"] == scores.intervals["overall"] == wilson(0.5, 2)
    assert scores.intervals["exact_match.accuracy"] == scores.intervals["overall"]
    assert all(map(math.isnan, scores.intervals["colour"]))


def test_every_value_of_a_metric_has_an_interval_but_counts() -> None:
    answers = [
        Answer(
            question=question(i, f"{i // 2}.png", ("yes", "no")[i % 2]),
            text="Yes." if i % 3 else "no",
            score=float((i % 3 > 0) == (i % 2 == 0)),
        )
        for i in range(60)
    ]
    scores = score(answers, ("pope",))
    assert scores.values["pope.f1"] == pytest.approx(40 / 70)
    low, high = scores.intervals["pope.f1"]
    assert 0.42 < low < 40 / 70 < high < 0.72
    counts = {name for name, value in scores.values.items() if isinstance(value, int)}
    assert counts == {"pope.lmms_eval_differs"}
    assert set(scores.values) - set(scores.intervals) == counts


def test_questions_about_one_image_widen_the_interval() -> None:
    def ends(images: Sequence[str]) -> tuple[float, float]:
        answers = [
            Answer(question=question(i, name, "b"), text="", score=float(i < 4))
            for i, name in enumerate(images)
        ]
        return score(answers).intervals["overall"]

    assert ends([f"{i}.png" for i in range(8)]) == wilson(0.5, 8)
    low, high = ends([f"{i // 4}.png" for i in range(8)])
    assert (low, high) == pytest.approx(wilson(0.5, 0.25 / ends_variance()), abs=1e-12)


def ends_variance() -> float:
    """Of a half, four right about one image and four wrong about another: few are corrected."""
    return 2 * (8 * 0.25 / 7 / 8 + (2 * 2.0**2 - 8 * 0.25) / 8**2)


def world(folder: Path) -> Path:
    """A world of a red dog, a blue cup, and an image that is missing."""
    truths = []
    for name, category in (("red", "dog"), ("blue", "cup"), ("gone", "cat")):
        box = Box(category=category, x1=0.1, y1=0.1, x2=0.3, y2=0.3)
        toy = Toy(category=category, colour=name, texture="smooth", size="small", box=box)
        truths.append(
            Truth(
                id=name,
                image=f"{name}.png",
                lighting="dim",
                sign=None,
                sign_box=None,
                toys=(toy,),
            )
        )
    (folder / "truth.jsonl").write_bytes(b"\n".join(map(msgspec.json.encode, truths)))
    return folder


def test_evaluate_sets_controls_beside_the_same_questions(images: Path) -> None:
    evaluation = evaluate(
        assistant(),
        "world",
        world(images.parent),
        before_instruct=assistant("untuned"),
        answer=Seer(),
        progress=False,
    )
    # Colour is the only kind that the seer can answer: two images, both right.
    assert [(k.name, k.sum, k.total) for k in evaluation.scores.kinds] == [
        ("colour", 2, 2),
        ("count", 0, 2),
        ("existence", 0, 2),
        ("kind", 0, 2),
        ("place", 0, 2),
    ]
    assert evaluation.scores.overall == Score(name="overall", sum=2, total=10)
    controls = {control.name: control.scores.overall for control in evaluation.controls}
    assert list(controls) == ["blank", "shuffled", "text_only", "constant", "before_instruct"]
    # No colour is seen without the image; one answer a kind is right of one image of two or more.
    assert [one.sum for one in controls.values()] == [0, 0, 0, 8, 0]
    assert {k.name: k.sum for k in evaluation.controls[3].scores.kinds}["colour"] == 1
    assert [one.total for one in controls.values()] == [10] * 5
    found = figures(evaluation)
    assert found.overall == 0.2
    assert found.kinds["colour"] == 1.0
    assert found.controls["blank"].kinds["colour"] == 0.0
    assert found.questions == 10
    assert found.skipped == {"image missing": 5}
    assert set(msgspec.to_builtins(found)) >= {"overall", "kinds", "controls"}
    table = score_table(evaluation)
    headers = [str(column.header) for column in table.columns]
    assert headers == [
        "kind",
        "questions",
        "assistant",
        "95 %",
        *(one.replace("_", " ") for one in controls),
    ]
    assert list(table.columns[2].cells) == ["1.000", "0.000", "0.000", "0.000", "0.000", "0.200"]


def test_evaluate_without_a_readable_image_or_a_known_task_says_so(tmp_path: Path) -> None:
    with pytest.raises(LaternaError, match=r"none of the images.*red\.png: no such image"):
        evaluate(assistant(), "world", world(tmp_path), answer=Seer(), progress=False)
    with pytest.raises(LaternaError, match="the tasks are: boxes,"):
        evaluate(assistant(), "vqa", tmp_path, answer=Seer(), progress=False)


def test_a_real_assistant_is_evaluated_end_to_end(
    images: Path, tiny_assistant: VisionLanguageModel
) -> None:
    dataset = world(images.parent)
    first, again = (
        evaluate(
            Assistant(tiny_assistant),
            "world",
            dataset,
            before_instruct=Assistant(tiny_assistant),
            batch=batch,
            progress=False,
        )
        for batch in (64, 1)
    )
    assert len(first.answers) == 10
    assert all(isinstance(given.text, str) for given in first.answers)
    # The control is the assistant itself here, so it must score the same.
    assert first.controls[-1].scores == first.scores
    # How many are asked at once must not change an answer.
    assert [one.text for one in first.answers] == [one.text for one in again.answers]
    assert (first.scores, first.warnings) == (again.scores, again.warnings)
