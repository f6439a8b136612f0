"""A run's page from its folder: what trained, how fast, and what was said, by value."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from laterna.cli import main
from laterna.errors import LaternaError
from laterna.files import write_lines
from laterna.model.checkpoint import save_checkpoint
from laterna.model.vlm import VisionLanguageModel
from laterna.recipe import Recipe, StageName
from laterna.report.training import find_evaluations, find_stages, run_content
from laterna.training.throughput import SampleAnswer, StepFigures, Validation

SAID = SampleAnswer(id="r7", prompt="What is it?", answer="<b>a cup</b>", truth="a clock")
EVALUATION = {
    "overall": 0.75,
    "kinds": {"colour": 1.0, "count": 0.5},
    "metrics": {"exact_match.accuracy": 0.75},
    "controls": {"blank": {"overall": 0.25, "kinds": {"colour": 0.25}, "metrics": {}}},
    "questions": 8,
    "skipped": {"image missing": 2},
}


def figures(step: int, loss: float) -> StepFigures:
    look = Validation(loss=loss + 0.5, target_tokens=9, records=2, seconds=0.1, answers=(SAID,))
    return StepFigures(
        step=step,
        loss=loss,
        lr=0.1,
        grad_norm=1.0,
        target_tokens=100,
        tokens=400,
        padding=40,
        images=3,
        skipped=step,
        seconds=0.5,
        model_seconds=0.48,
        vision_seconds=0.1,
        mfu=0.2,
        validation=look if step == 2 else None,
    )


def add_stage(run: Path, assistant: VisionLanguageModel, recipe: Recipe, stage: StageName) -> None:
    metrics = run / "figures.jsonl"
    metrics.parent.mkdir(parents=True, exist_ok=True)
    write_lines(metrics, [figures(1, 3.0), figures(2, 2.0), figures(3, 1.5)])
    counts = {"connector_trained": 1234.0, "connector_frozen": 0.0, "vision_trained": 0.0}
    save_checkpoint(
        run / stage, assistant, recipe, stage=stage, figures=counts, metrics=metrics, run="x"
    )
    metrics.unlink()


@pytest.fixture
def run(tmp_path: Path, tiny_assistant: VisionLanguageModel, tiny_recipe: Recipe) -> Path:
    """Stage 1 finished, stage 2 with two steps done, an evaluation, and files of other kinds."""
    folder = tmp_path / "run"
    add_stage(folder, tiny_assistant, tiny_recipe, "align")
    write_lines(folder / "instruct.metrics.jsonl", [figures(1, 2.5), figures(2, 2.25)])
    (folder / "figures.json").write_bytes(msgspec.json.encode(EVALUATION))
    (folder / "captions.json").write_text('[{"id": 1}]')
    (folder / "broken.json").write_text("{")
    return folder


def test_figures_without_a_number_are_shown_and_not_passed_over(run: Path) -> None:
    undefined = {
        "overall": None,
        "kinds": {"colour": None},
        "metrics": {"pope.precision": None},
        "controls": {},
        "questions": 8,
    }
    (run / "undefined.json").write_bytes(msgspec.json.encode(undefined))
    (shown,) = [one for one in find_evaluations(run) if "undefined.json" in one.name]
    assert [*shown.rows] == [("overall", "–"), ("colour", "–")]


def test_the_page_shows_what_the_folder_holds(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(run)]) == 0
    page = run / "training.html"
    assert capsys.readouterr().out == f"made the report of 2 stages: {page}\n"
    html = page.read_text(encoding="utf-8")
    assert not re.search(r"<script|<link|src=|href=\"(?!#)", html)
    text = " ".join(re.sub(r"<style>.*?</style>|<[^>]*>", " ", html, flags=re.DOTALL).split())
    assert "align: 3 steps in 1.5 s, loss 3.000 at first and 1.500 at last, validation" in text
    assert "Training of tiny" in text
    assert "align: 3 steps, first 3.000, last 1.500, validation 2.500 after step 2" in text
    assert "instruct, not finished: 2 steps, first 2.500, last 2.250" in text
    assert "connector full 1,234 0 0.01" in text
    assert "vision frozen 0 – –" in text
    for line in (
        "optimizer steps 3 2",
        "seconds a step 0.500 0.500",
        "target tokens a second 200 200",
        "images a second 6.0 6.0",
        "padding, of the tokens 10.0 % 10.0 %",
        "vision tower, of a step 20.0 % 20.0 %",
        "loop, of a step 4.0 % 4.0 %",
        "MFU 20.0 % 20.0 %",
        "steps skipped 3 2",
    ):
        assert line in text
    assert "after step 2; spread" in text
    assert "What is it? &lt;b&gt;a cup&lt;/b&gt; a clock" in text
    assert "overall 75.0 % 25.0 % colour 100.0 % 25.0 % count 50.0 % –" in text
    assert "8 questions answered; 2 not asked: image missing." in text
    assert "align.global_batch_size 4" in text
    assert f"laterna chat {run / 'align'} --image IMAGE" in text
    assert html.count("Evaluation: ") == 1


def test_stages_come_in_the_order_of_training(
    run: Path, tiny_assistant: VisionLanguageModel, tiny_recipe: Recipe
) -> None:
    (run / "instruct.metrics.jsonl").unlink()
    faster = replace(tiny_recipe, seed=9)
    add_stage(run, tiny_assistant, faster, "instruct")
    (run / "instruct").rename(run / "a second try")
    assert [stage.name for stage in find_stages(run)] == ["align", "a second try (instruct)"]
    content = run_content(run)
    assert dict(content.settings)["seed"] == "9 (before: 3)"
    assert dict(content.settings)["name"] == "tiny"
    assert content.next_command == f"laterna chat {run / 'a second try'} --image IMAGE"
    assert [stage.name for stage in find_stages(run / "a second try")] == [
        "a second try (instruct)"
    ]


def test_a_folder_that_is_no_run_says_so(
    tmp_path: Path, tiny_assistant: VisionLanguageModel, tiny_recipe: Recipe
) -> None:
    with pytest.raises(LaternaError, match="nowhere: no such folder"):
        run_content(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(LaternaError, match="no training run: neither a checkpoint of a stage"):
        run_content(tmp_path / "empty")
    (tmp_path / "empty" / "align.metrics.jsonl").write_text("[1]\n")
    with pytest.raises(LaternaError, match=r"align\.metrics\.jsonl: not a training's figures"):
        run_content(tmp_path / "empty")
    save_checkpoint(tmp_path / "made", tiny_assistant, tiny_recipe, stage=None, figures={})
    with pytest.raises(LaternaError, match="made: a checkpoint without figures of a training"):
        run_content(tmp_path / "made")
    assert main(["report", str(tmp_path / "nowhere")]) == 2
