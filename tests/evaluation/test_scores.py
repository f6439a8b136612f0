"""Controls and what they explain; whose image is shown; the one answer to everything."""

from __future__ import annotations

import io
import math
import random
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from laterna.evaluation.asking import ask, rated
from laterna.evaluation.scores import (
    Control,
    Scores,
    constant_answers,
    score,
    table_of,
    warnings,
)
from laterna.inference.assistant import Assistant
from laterna.inference.generation import Decoding, Prompt
from laterna.model.vlm import VisionLanguageModel
from laterna.records import Answer, Question, Score


def question(number: int, images: tuple[str, ...], kind: str = "k", truth: str = "yes") -> Question:
    return Question(id=str(number), images=images, kind=kind, text="?", references=(truth,))


def answers(rights: Sequence[float], kind: str = "k") -> list[Answer]:
    return [
        Answer(question=question(i, (f"{kind}{i}",), kind), text="", score=right)
        for i, right in enumerate(rights)
    ]


def shown_by(tmp_path: Path, questions: Sequence[Question], seed: int) -> dict[str, list[int]]:
    """Ask with shuffled images; return the grey levels that each question was shown."""
    levels = sorted({name for one in questions for name in one.images})
    for level in levels:
        Image.new("L", (3, 3), int(level)).save(tmp_path / level, format="PNG")
    seen: dict[str, list[int]] = {}

    def look(
        model: VisionLanguageModel, prompts: Sequence[Prompt], decoding: Decoding
    ) -> list[str]:
        found = [[image.tobytes()[0] for image in images] for _, images in prompts]
        return [" ".join(map(str, one)) for one in found]

    nobody = Assistant.__new__(Assistant)
    nobody.model = None  # type: ignore[assignment]  # whoever answers here needs none
    asked = ask(
        nobody,
        questions,
        tmp_path,
        shown="shuffled",
        seed=seed,
        answer=look,
        progress=False,
    )
    for answer in asked.answers:
        seen[answer.question.id] = [int(word) for word in answer.text.split()]
    for lost in asked.skipped:
        assert lost.reason == "no other image to show"
    return seen


@pytest.mark.parametrize("seed", range(5))
def test_shuffled_no_question_keeps_its_image_and_each_image_is_used_as_often(
    tmp_path: Path, seed: int
) -> None:
    questions = [question(i, (str(i % 7),)) for i in range(14)]
    questions += [question(20 + i, (str(10 + i), str(30 + i))) for i in range(3)]
    questions += [question(40, ())]
    seen = shown_by(tmp_path, questions, seed)
    for one in questions:
        own = [int(name) for name in one.images]
        assert len(seen[one.id]) == len(own)
        assert not own or seen[one.id] != own
    singles = sorted(level for one in questions[:14] for level in seen[one.id])
    assert singles == sorted(list(range(7)) * 2)
    assert shown_by(tmp_path, questions, seed) == seen


def test_the_only_image_has_no_other_to_be_shown_and_that_is_counted(tmp_path: Path) -> None:
    questions = [question(0, ("1",)), question(1, ("1",)), question(2, ("1", "2"))]
    assert shown_by(tmp_path, questions, 0) == {}


def test_the_constant_answer_is_the_best_of_each_kind() -> None:
    truths = {"a": ["no", "no", "yes"], "b": ["red", "blue", "blue", "green"]}
    questions = [
        question(ord(kind) * 10 + i, (), kind, truth)
        for kind, own in truths.items()
        for i, truth in enumerate(own)
    ]
    given = constant_answers(questions, "exact_match")
    assert [one.question for one in given] == questions
    assert [one.text for one in given] == ["no"] * 3 + ["blue"] * 4
    assert score(given).overall.sum == 4
    bare = Question(id="1", images=(), kind="k", text="?", references=())
    assert constant_answers([bare], "chair") == ()


def test_a_control_that_reaches_the_interval_or_most_of_the_score_is_warned_of() -> None:
    own = score(answers([1.0] * 80 + [0.0] * 20))
    assert own.intervals["overall"] == pytest.approx((0.711, 0.867), abs=1e-3)

    def told(right: int, chance: float, name: str = "blank") -> tuple[str, ...]:
        control = Control(name=name, scores=score(answers([1.0] * right + [0.0] * (100 - right))))
        return warnings(own, [control], chance)

    assert told(75, 0.0) == (
        "blank explains the score: blank has 0.750, the assistant 0.800 with the interval "
        "0.711 to 0.867",
    )
    assert told(68, 0.5) == (
        "blank explains most of the score: blank has 0.680, the assistant 0.800, which is 60% of "
        "what is above chance (0.500)",
    )
    assert told(60, 0.5) == ()
    assert told(68, 0.5, "constant") == ()  # it is itself what is had by chance
    assert told(99, 0.5, "before_instruct") == ()


def test_a_kind_that_is_no_better_than_its_controls_is_named() -> None:
    own = score(answers([1.0] * 50, "seen") + answers([1.0, 0.0] * 20, "guessed"))
    blind = score(answers([0.0] * 50, "seen") + answers([1.0, 0.0] * 20, "guessed"))
    controls = [Control(name=name, scores=blind) for name in ("blank", "text_only")]
    assert warnings(own, controls, 0.3) == (
        "guessed: the assistant does no better than blank, text_only (95 %)",
    )


def test_a_judges_review_is_scored_in_place_of_the_answer() -> None:
    asked = Question(
        id="1", images=(), kind="k", text="?", references=("x",), fields={"capabilities": "ocr"}
    )
    given = [Answer(question=asked, text="1.0", score=math.nan, review="0.3")]
    (found,) = rated(given, "mm_vet")
    assert (found.score, found.text) == (0.3, "1.0")
    assert score([found], ("mm_vet",)).values["mm_vet.ocr"] == 30.0


@pytest.mark.parametrize(
    ("metric", "count", "seconds"),
    [("vqa", 100_000, 10), ("textvqa", 100_000, 10), ("pope", 9000, 1)],
)
@pytest.mark.slow
def test_scoring_with_intervals_is_quick(metric: str, count: int, seconds: float) -> None:
    words = ("yes", "no", "two people", "the dog's bowl", "red, white", "it isn't", "3 o'clock")
    rng = random.Random(0)

    def phrase() -> str:
        return f"{rng.choice(words)} {rng.choice(('', rng.randrange(5000)))}".strip()

    questions = [
        Question(
            id=str(i),
            images=(f"{i // 6}.jpg",),
            kind=("yes/no", "number", "other")[i % 3],
            text="?",
            references=tuple(phrase() for _ in range(10)) if metric != "pope" else (words[i % 2],),
        )
        for i in range(count)
    ]
    texts = [phrase() for _ in questions]
    started = time.process_time()
    given = rated(
        [Answer(question=q, text=t, score=math.nan) for q, t in zip(questions, texts, strict=True)],
        metric,
    )
    found = score(given, (metric,))
    assert time.process_time() - started < seconds
    low, high = found.intervals["overall"]
    assert low < found.overall.mean < high


def test_figures_are_whole_in_a_narrow_terminal() -> None:
    found = Scores(
        overall=Score(name="overall", sum=900, total=1513),
        kinds=(Score(name="existence", sum=296, total=300),),
        values={"accuracy": 0.595},
        intervals={"overall": (0.887, 0.918), "existence": (0.9, 0.99)},
    )
    names = ("blank", "shuffled", "text_only", "constant", "before_instruct")
    shown = io.StringIO()
    table = table_of("world", found, [Control(name=name, scores=found) for name in names])
    Console(file=shown, width=80).print(table)
    assert shown.getvalue().count("0.987") == shown.getvalue().count("0.595") == 6
