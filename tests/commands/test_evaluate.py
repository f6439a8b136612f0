"""`laterna evaluate`: what it prints, and what it refuses before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from laterna.cli import main
from laterna.evaluation.asking import Skipped
from laterna.evaluation.run import Evaluation
from laterna.evaluation.scores import Control, score
from laterna.records import Answer, Question


def test_evaluate_shows_the_control_beside_and_what_was_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    question = Question(
        id="1-count", images=("1.png",), kind="count", text="How many?", references=("two",)
    )
    right = Answer(question=question, text="two", score=1.0)
    wrong = Answer(question=question, text="one", score=0.0)

    def evaluate(assistant: object, task: str, dataset: Path, **settings: object) -> Evaluation:
        assert (assistant, task, dataset) == ("c", "world", Path("d"))
        assert settings["controls"] == ("blank", "constant")
        assert settings["before_instruct"] == "a"
        return Evaluation(
            task=task,
            limit=0,
            seed=0,
            scores=score([right, right, right, wrong]),
            controls=(Control(name="blank", scores=score([right, wrong, wrong, wrong])),),
            answers=(right, right, right, wrong),
            skipped=(Skipped(question=question, reason="gone", message="2.png is gone"),) * 21,
            skipped_rows={"no label": 2},
            row_examples={"no label": "a.json, line 3"},
            warnings=("blank explains it",),
        )

    monkeypatch.setattr("laterna.inference.assistant.load", lambda name, **_: str(name))
    monkeypatch.setattr("laterna.evaluation.run.evaluate", evaluate)
    monkeypatch.setattr("laterna.evaluation.tasks.base.read_questions", lambda *_, **__: None)
    monkeypatch.chdir(tmp_path)
    for name in "acd":
        (tmp_path / name).mkdir()
    asked = ["evaluate", "c", "--data", "d", "--baseline", "a", "--controls", "blank,constant"]
    assert main(asked) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines]
    assert ["kind", "questions", "assistant", "95", "%", "blank"] in rows
    # four answers, but about one image
    assert ["count", "4", "0.750", "0.118–0.985", "0.250"] in rows
    assert ["overall", "4", "0.750", "0.118–0.985", "0.250"] in rows
    assert "warning: blank explains it" in lines
    assert lines.count("not asked: 2.png is gone") == 20
    assert lines[-3:] == [
        "not asked: 1 more",
        "left out: 2 rows: no label (a.json, line 3)",
        "evaluated c: world 0.750 of 4 questions, 21 not asked: gone, 2 not asked: no label",
    ]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--task", "world,nix"], "'nix' is none of: boxes,"),
        (["--controls", "blind"], "'blind' is none of: blank, shuffled, text_only, constant"),
        (["--batch", "0"], "--batch '0': give `auto`, or a number from 1 to 4096"),
        (["--task", "mm_vet"], "mm_vet: a judge scores its answers; name a model with --judge"),
        (["--task", "mm_vet", "--judge", "j"], "the judge's reviews need a place; give --out"),
        (["--setting", "loud"], "loud: no such setting of this task; its settings are: own"),
        (["--judge-tries", "0"], "--judge-tries"),
        (["--shots", "4"], "name with --shots-from where demonstrations come from"),
        (["--shots-from", "d"], "--shots-from and --shots-by are of --shots"),
        (["--shots", "0", "--shots-from", "d", "--shots-by", "features"], "0 shots show no image"),
        (["--shots", "-1", "--shots-from", "d"], "--shots"),
    ],
)
def test_what_evaluate_cannot_do_is_said_before_anything_is_loaded(
    options: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in "cd":
        (tmp_path / name).mkdir()
    try:
        assert main(["evaluate", "c", "--data", "d", *options]) == 2
    except SystemExit as stopped:
        assert stopped.code == 2
    said = capsys.readouterr().err
    assert words in " ".join(said.replace("│", " ").split())
    assert "Traceback" not in said
