"""What answers of an evaluation hang on: looked for once, shown by its page and by the run's."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from laterna.cli import main
from laterna.errors import LaternaError
from laterna.evaluation.run import evaluate
from laterna.evaluation.saved import Subject, read_run, write_run
from laterna.inference.assistant import Assistant
from laterna.model.vlm import VisionLanguageModel
from laterna.records import Answer, Question
from laterna.report import overlays
from laterna.report.evaluation import write_evaluation_page
from laterna.report.overlays import (
    EXPLANATIONS,
    drawn_from,
    explain_answers,
    find_explanations,
    read_explanations,
    write_explanations,
)
from laterna.world.dataset import write_world


@pytest.fixture
def folder(tmp_path: Path, tiny_assistant: VisionLanguageModel) -> Path:
    """An evaluation of a few questions, its explanations beside it."""
    place = tmp_path / "explained"
    write_world(place / "world", images=3, seed=1)
    assistant = Assistant(tiny_assistant)
    found = evaluate(
        assistant, "world", place / "world", limit=6, controls=("constant",), progress=False
    )
    subject = Subject(model="tiny", fingerprint="f", limit=6, seed=0, laterna="1")
    write_run(place / "run", subject, [found], {"world": place / "world"})
    explained = explain_answers(assistant, read_run(place / "run"), 3)
    write_explanations(place / "run", explained)
    return place / "run"


def test_answers_are_explained_once_and_shown_again_without_the_model(folder: Path) -> None:
    found = read_explanations(folder)["world"]
    given = {(one.question.text, one.text) for one in read_run(folder).answers("world")}
    assert len(found.shown) == 3 and found.missing == {}
    assert {(one.question, one.answer) for one in found.shown} <= given
    assert all(one.overlay.title == "Occlusion" for one in found.shown)
    assert len({one.overlay.image for one in found.shown}) == 3
    write_evaluation_page(folder / "report.html", read_run(folder))
    page = (folder / "report.html").read_text()
    assert page.count("Occlusion over the image") == 3
    assert all(one.overlay.image in page and one.overlay.note in page for one in found.shown)
    assert [*find_explanations(folder.parent)] == [*find_explanations(folder)] == [found]


def test_an_evaluation_without_them_has_no_such_part(folder: Path) -> None:
    (folder / EXPLANATIONS).unlink()
    write_evaluation_page(folder / "report.html", read_run(folder))
    assert "What answers hang on" not in (folder / "report.html").read_text()
    (folder / EXPLANATIONS).write_text("{")
    with pytest.raises(LaternaError, match=r"explanations\.json: cannot be read.*evaluate again"):
        write_evaluation_page(folder / "report.html", read_run(folder))


@pytest.mark.parametrize(
    ("scores", "count", "drawn"),
    [("00001111", 4, "0011"), ("00001111", 3, "011"), ("01111111", 4, "0111"),
     ("00000001", 4, "0001"), ("0000", 2, "00"), ("1", 4, "1")],
)  # fmt: skip
def test_half_of_those_drawn_are_not_right_where_there_are_so_many(
    scores: str, count: int, drawn: str
) -> None:
    question = Question(id="q", images=(), kind="k", text="?", references=())
    answers = [Answer(question=question, text="a", score=float(score)) for score in scores]
    assert "".join(f"{answer.score:.0f}" for answer in drawn_from(answers, count, 0)) == drawn


def test_what_cannot_be_explained_is_counted_by_reason(
    folder: Path, tiny_assistant: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = read_run(folder)
    blind = Question(id="q", images=(), kind="k", text="?", references=())
    answers = [replace(answer, question=blind) for answer in run.answers("world")]
    monkeypatch.setattr(overlays, "drawn_from", lambda *_: answers[:2])
    found = explain_answers(Assistant(tiny_assistant), run, 2)["world"]
    assert (found.shown, found.reasons) == ((), ("2 × asked about 0 images",))
    assert explain_answers(Assistant(tiny_assistant), run, 0) == {}


def test_evaluate_explains_some_answers_and_report_shows_them(
    tiny_assistant: VisionLanguageModel, tmp_path: Path
) -> None:
    data, out, model = (tmp_path / name for name in ("world", "out", "model"))
    write_world(data, images=3, seed=1)
    Assistant(tiny_assistant).save(model)
    asked = ["evaluate", str(model), "--data", str(data), "--out", str(out)]
    asked += ["--limit", "2", "--controls", "none"]
    assert main([*asked, "--explain", "1"]) == 0
    assert len(read_explanations(out)["world"].shown) == 1  # though none is right
    (out / "report.html").unlink()
    assert main(["report", str(out)]) == 0
    assert "Occlusion over the image" in (out / "report.html").read_text()
    assert main([*asked, "--explain", "0", "--overwrite"]) == 0
    assert not (out / EXPLANATIONS).exists()
