"""The pages of an evaluation and of a comparison hold what they are to show, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from msgspec.structs import replace

from laterna.evaluation.compare import compare_runs
from laterna.evaluation.run import Evaluation
from laterna.evaluation.saved import SavedRun, Subject, read_run, write_run
from laterna.evaluation.scores import Control, score
from laterna.evaluation.tasks import find_task
from laterna.evaluation.tasks.base import read_questions
from laterna.recipe import SourceSettings
from laterna.records import Answer
from laterna.report.evaluation import write_comparison_page, write_evaluation_page
from laterna.report.nearest import TeacherWords, TrainingRecords
from laterna.report.parts import choose
from laterna.synthesis.run import synthesize
from laterna.world.dataset import write_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluated")
    write_world(folder / "train", images=12, seed=1)
    write_world(folder / "held_out", images=8, seed=1, start=12)
    synthesize(
        folder / "train",
        folder / "instructions.json",
        kinds=("conversation",),
        conversation_boxes=True,
    )
    return folder


def source(world: Path) -> SourceSettings:
    return SourceSettings(
        data=str(world / "instructions.json"), images=str(world / "train" / "images")
    )


def evaluated(world: Path, name: str, wrong_every: int) -> SavedRun:
    data = world / "held_out"
    questions = read_questions(find_task("world"), data).questions
    answers = [
        Answer(
            question=one,
            text=one.references[0] if i % wrong_every else "<b>nothing</b>",
            score=float(i % wrong_every > 0),
            probability=0.9,
        )
        for i, one in enumerate(questions)
    ]
    evaluation = Evaluation(
        task="world",
        limit=0,
        seed=0,
        scores=score(answers),
        controls=(Control(name="text_only", scores=score(answers[:0]), answers=tuple(answers)),),
        answers=tuple(answers),
        skipped=(),
        setting="llava-1.5",
        warnings=("text_only explains it",),
    )
    subject = Subject(
        model=name,
        fingerprint="0123456789abcdef00",
        limit=0,
        seed=0,
        laterna="0",
        training=(source(world),),
    )
    write_run(world / name, subject, [evaluation], {"world": data})
    return read_run(world / name)


def test_the_page_goes_from_an_answer_back_to_the_words_the_teacher_saw(world: Path) -> None:
    run = evaluated(world, "model", 3)
    page = world / "page.html"
    write_evaluation_page(page, run)
    text = page.read_text(encoding="utf-8")
    assert not re.search(r'(?:src|href)="(?!data:|#)', text)
    assert "&lt;b&gt;nothing&lt;/b&gt;" in text
    assert "<b>nothing" not in text
    assert "text_only explains it" in text
    assert "Expected calibration error:" in text
    assert text.count('data-verdict="wrong"') >= 10
    assert text.count('data-verdict="right"') == 12
    assert "what its teacher saw" in text
    (line,) = set(re.findall(r"<span>caption</span><span>(.*?)</span>", text)[:1])
    captions = (world / "train" / "captions.json").read_text(encoding="utf-8")
    assert line in captions
    again = world / "again.html"
    write_evaluation_page(again, run)
    assert again.read_text(encoding="utf-8") == text


def test_the_nearest_record_is_the_one_with_its_words_and_is_counted(world: Path) -> None:
    records = TrainingRecords([source(world)])
    (first, *_) = records._exchanges  # any exchange finds itself
    found = records.nearest(*first, 2)
    assert (found[0].question, found[0].answer) == first
    assert found[0].similarity == pytest.approx(1.0)
    assert found[0].similarity >= found[1].similarity > 0
    assert found[0].times >= 1
    assert records.nearest("xyzzy", "plugh", 2) == []
    proxy = TeacherWords(found).proxy(found[0])
    made = found[0].record.provenance
    assert proxy is not None and made is not None
    assert proxy.channels == made.channels


def test_what_the_teacher_saw_is_not_shown_unless_the_record_confirms_it(world: Path) -> None:
    (found, *_) = TrainingRecords([source(world)]).nearest("How many dogs are there?", "two", 1)
    made = found.record.provenance
    assert made is not None
    other = replace(found.record, provenance=replace(made, proxy_digest="0" * 64))
    assert TeacherWords([found]).proxy(found._replace(record=other)) is None


def test_training_records_that_are_gone_are_said_to_be(world: Path, tmp_path: Path) -> None:
    gone = TrainingRecords([SourceSettings(data=str(tmp_path / "gone.json"))])
    assert "the training records cannot be read" in gone.notes[0]
    assert gone.nearest("What?", "two", 2) == []


def test_answers_are_drawn_by_kinds_in_turn(world: Path) -> None:
    answers = evaluated(world, "drawn", 2).answers("world")
    chosen = choose(answers, 6, 4, seed=0)
    assert [one.score for one in chosen] == [0.0] * 6 + [1.0] * 4
    assert len({one.question.kind for one in chosen[:6]}) >= 5
    assert choose(answers, 6, 4, seed=0) == chosen
    assert len(choose(answers, 1000, 1000, seed=0)) == len(answers)


def test_a_comparison_shows_the_questions_on_which_two_runs_differ(world: Path) -> None:
    found = compare_runs(evaluated(world, "a", 3), evaluated(world, "b", 2))
    page = world / "compare.html"
    write_comparison_page(page, found)
    text = page.read_text(encoding="utf-8")
    assert found.tasks[0].sentence.replace("−", "−") in text
    cards = text.count("data-verdict=")
    assert cards == min(40, len(found.tasks[0].differing))
    assert text.count("<img ") == cards
    assert "McNemar" in text
    assert text.count("<svg") == 1
    assert not re.search(r'(?:src|href)="(?!data:|#)', text)


def test_an_image_that_is_gone_is_said_to_be(world: Path) -> None:
    run = evaluated(world, "moved", 2)._replace(datasets={"world": str(world / "nowhere")})
    page = world / "gone.html"
    write_evaluation_page(page, run)
    assert "no such image" in page.read_text(encoding="utf-8")
