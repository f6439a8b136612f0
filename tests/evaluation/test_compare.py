"""Two runs read from their folders: the same questions are compared, others refused by what
differs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace

from laterna.errors import LaternaError
from laterna.evaluation.compare import compare_runs, comparison_tables
from laterna.evaluation.metrics import METRICS
from laterna.evaluation.run import Evaluation
from laterna.evaluation.saved import SavedRun, Subject, is_run, made, read_run, write_run
from laterna.evaluation.scores import Control, calibration, score
from laterna.evaluation.statistics import mcnemar
from laterna.evaluation.tasks import TASKS
from laterna.files import write_atomically
from laterna.records import Answer, Question


def answers(rights: Sequence[float], kind: str = "count") -> list[Answer]:
    return [
        Answer(
            question=Question(
                id=f"{kind}{i}",
                images=(f"{i}.png",),
                kind=kind,
                text="How many?",
                references=("one",),
            ),
            text="one" if right else "two",
            score=right,
            probability=0.5,
        )
        for i, right in enumerate(rights)
    ]


def saved(folder: Path, given: Sequence[Answer], task: str = "world", **changed: str) -> SavedRun:
    metrics = TASKS[task].metrics
    control = Control(name="blank", scores=score(given, metrics), answers=tuple(given[:1]))
    evaluation = Evaluation(
        task=task,
        limit=0,
        seed=0,
        scores=score(given, metrics),
        controls=(control,),
        answers=tuple(given),
        skipped=(),
        setting=changed.get("setting", "llava-1.5"),
    )
    subject = Subject(
        model=folder.name,
        fingerprint=changed.get("fingerprint", folder.name),
        limit=0,
        seed=0,
        laterna="0",
    )
    write_run(folder, subject, [evaluation], {task: folder})
    return read_run(folder)


def test_a_run_comes_back_as_it_was_written(tmp_path: Path) -> None:
    given = [*answers([1.0, 0.0]), *answers([math.nan], "other")]
    run = saved(tmp_path / "a", given)
    back = run.answers("world")
    assert [one.question for one in back] == [one.question for one in given]
    assert [one.score for one in back[:2]] == [1.0, 0.0]
    assert math.isnan(back[2].score)
    assert back[0].probability == 0.5
    assert {name: len(own) for name, own in run.controls("world").items()} == {"blank": 1}
    assert run.datasets == {"world": str((tmp_path / "a").resolve())}
    figures = json.loads((tmp_path / "a" / "report.json").read_text())["tasks"]["world"]
    assert (figures["overall"], figures["questions"]) == (0.5, 3)
    assert figures["kinds"] == {"count": 0.5, "other": None}


def test_a_folder_that_is_no_run_and_a_damaged_line_are_named(tmp_path: Path) -> None:
    with pytest.raises(LaternaError, match=r"holds no report\.json"):
        read_run(tmp_path)
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(LaternaError, match=r"report\.json: not the figures of `laterna evaluate`"):
        read_run(tmp_path)
    run = saved(tmp_path / "a", answers([1.0]))
    (tmp_path / "a" / "world.jsonl").write_text("{}\n")
    with pytest.raises(LaternaError, match=r"world\.jsonl, line 1: not an answer"):
        run.answers("world")


def test_the_tests_are_over_pairs_and_by_kind(tmp_path: Path) -> None:
    first = answers([1.0] * 30 + [0.0] * 10) + answers([1.0, 0.0] * 5, "colour")
    second = answers([1.0] * 10 + [0.0] * 28 + [1.0] * 2) + answers([1.0, 0.0] * 5, "colour")
    # The other run's questions come in another order.
    found = compare_runs(saved(tmp_path / "a", first), saved(tmp_path / "b", second[::-1]))
    (task,) = found.tasks
    assert [row.name for row in task.kinds] == ["colour", "count"]
    colour, count = task.kinds
    assert (count.questions, count.first, count.second) == (40, 0.75, 0.3)
    assert count.comparison.mcnemar is not None
    assert (count.comparison.mcnemar.only_first, count.comparison.mcnemar.only_second) == (20, 2)
    assert count.p == mcnemar([1.0] * 20 + [0.0] * 2, [0.0] * 20 + [1.0] * 2).p < 0.001
    assert (colour.p, colour.comparison.needed) == (1.0, None)
    assert len(task.differing) == 22
    assert "A is better by 0.360" in task.sentence
    back = compare_runs(saved(tmp_path / "b", second), saved(tmp_path / "a", first)).tasks[0]
    assert "B is better by 0.360" in back.sentence
    (table,) = comparison_tables(found)
    assert list(table.columns[0].cells) == ["colour", "count", "overall"]
    assert list(table.columns[4].cells) == ["+0.000", "+0.450", "+0.360"]


def asked(metric: str, rows: Sequence[tuple[str, str]], kind: str = "random") -> list[Answer]:
    """Answers to questions with these references, scored by a metric; two an image."""
    questions = [
        Question(f"{i}", (f"{i // 2}.png",), kind, "?", tuple(references.split("|")))
        for i, (references, _) in enumerate(rows)
    ]
    texts = [text for _, text in rows]
    scores = METRICS[metric].score(questions, texts)
    return [Answer(*row) for row in zip(questions, texts, scores, strict=True)]


def test_every_score_of_a_task_is_paired(tmp_path: Path) -> None:
    truth = ["yes", "no"] * 20
    first = asked("pope", list(zip(truth, truth, strict=True)))
    said = ["yes", "yes", "no", "no"] * 10
    second = asked("pope", list(zip(truth, said, strict=True)))
    runs = saved(tmp_path / "a", first, "pope"), saved(tmp_path / "b", second, "pope")
    (task,) = compare_runs(*runs).tasks
    values = {row.name: row for row in task.values}
    f1 = values["pope.f1"]
    assert (f1.first, f1.second, f1.test) == (1.0, 0.5, "jackknife")
    assert f1.apart[0] == 0.5
    assert f1.apart[1] > 0
    assert f1.p < 0.01
    # both say yes to half: no difference, whichever half it is
    assert values["pope.yes_ratio"].apart[0] == 0.0
    assert values["pope.yes_ratio"].p > 0.5
    assert "pope.accuracy" not in values  # that is the first row
    assert "pope.lmms_eval_differs" not in values  # a count
    (table,) = comparison_tables(compare_runs(*runs))
    names, tests = list(table.columns[0].cells), list(table.columns[7].cells)
    assert names[:3] == ["random", "overall", "pope.precision"]
    assert tests[:3] == ["McNemar", "McNemar", "jackknife"]


def test_other_definitions_scores_are_paired_too(tmp_path: Path) -> None:
    people = "|".join(["a cat"] * 10)
    first = asked("vqa", [(people, "a cat")] * 12)
    second = asked("vqa", [(people, "cat")] * 12)
    runs = saved(tmp_path / "a", first, "vqav2"), saved(tmp_path / "b", second, "vqav2")
    (task,) = compare_runs(*runs).tasks
    assert (task.overall.first, task.overall.second) == (1.0, 0.0)
    assert task.overall.p == pytest.approx(2 / 2**12)
    (m4c,) = task.others
    assert (m4c.name, m4c.test) == ("vqa.m4c", "McNemar")
    assert (m4c.first, m4c.second, m4c.p) == (1.0, 1.0, 1.0)
    assert task.values == ()


def test_too_few_questions_say_how_many_are_needed(tmp_path: Path) -> None:
    first, second = [1.0] * 6 + [0.0] * 4, [1.0] * 4 + [0.0] * 5 + [1.0]
    runs = saved(tmp_path / "a", answers(first)), saved(tmp_path / "b", answers(second))
    (task,) = compare_runs(*runs).tasks
    needed = task.overall.comparison.needed
    assert needed is not None and needed > 10
    assert "10 questions do not tell them apart" in task.sentence
    assert f"{needed:,} questions would tell a difference of this size" in task.sentence


def test_a_question_without_a_score_is_in_no_test_and_counted(tmp_path: Path) -> None:
    first, second = answers([1.0, 1.0, math.nan]), answers([0.0, math.nan, 1.0])
    (task,) = compare_runs(saved(tmp_path / "a", first), saved(tmp_path / "b", second)).tasks
    assert (task.overall.questions, task.unscored) == (1, 2)


def test_other_questions_are_refused_by_what_differs(tmp_path: Path) -> None:
    ours = saved(tmp_path / "a", answers([1.0, 0.0, 1.0]))
    with pytest.raises(LaternaError, match=r"differ: 1 only in .*a \(the first: count2\)"):
        compare_runs(ours, saved(tmp_path / "b", answers([1.0, 0.0])))
    given = answers([1.0, 0.0, 1.0])
    changed = replace(given[1], question=replace(given[1].question, references=("two",)))
    other = saved(tmp_path / "c", [given[0], changed, given[2]])
    with pytest.raises(LaternaError, match=r"1 with another text, image or reference .*count1"):
        compare_runs(ours, other)
    with pytest.raises(LaternaError, match=r"what differs: setting: llava-1\.5 and loud"):
        compare_runs(ours, saved(tmp_path / "d", given, setting="loud"))
    boxes = saved(tmp_path / "e", given, task="boxes")
    with pytest.raises(LaternaError, match="share no task: the first holds world, the second bo"):
        compare_runs(ours, boxes)
    pope = saved(tmp_path / "f", given)
    of_pope = pope._replace(tasks={"world": _with_metric(pope, "pope")})
    with pytest.raises(LaternaError, match=r"what differs: metrics: exact_match .* and pope"):
        compare_runs(ours, of_pope)


def _with_metric(run: SavedRun, name: str):  # type: ignore[no-untyped-def]
    return replace(run.tasks["world"], definitions={name: "ours"})


def test_the_same_model_twice_is_remarked(tmp_path: Path) -> None:
    runs = [saved(tmp_path / name, answers([1.0, 0.0]), fingerprint="f") for name in "ab"]
    assert "both runs asked the same model" in compare_runs(*runs).remarks[0]


def test_calibration_is_the_weighted_distance_of_score_and_probability() -> None:
    found = calibration([0.95, 0.97, 0.35, 1.0], [1.0, 0.0, 0.0, 1.0])
    assert [(one.answers, one.score) for one in found.bins] == [(1, 0.0), (3, pytest.approx(2 / 3))]
    assert found.error == pytest.approx((0.35 + abs(2.92 - 2)) / 4)
    assert math.isnan(calibration([], []).error)


def test_a_folder_with_damaged_figures_is_still_an_evaluations(tmp_path: Path) -> None:
    with write_atomically(tmp_path / "run", made({"task": "world"})) as aside:
        aside.mkdir(exist_ok=True)
        (aside / "report.json").write_text("{")
    assert is_run(tmp_path / "run")
    assert not is_run(tmp_path)
    with pytest.raises(LaternaError, match=r"run/report\.json: not the figures of"):
        read_run(tmp_path / "run")
