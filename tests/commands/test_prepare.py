"""`laterna prepare`: what it says of a recipe's records, and that training finds them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from laterna.cli import main
from laterna.data import preparation
from laterna.errors import LaternaError
from laterna.model.build import build_from_recipe
from laterna.recipe import load_recipe
from laterna.training.dataloader import feed
from laterna.training.prepare import plan_stage


def recipe_file(tmp_path: Path, tiny_models: Path) -> Path:
    (tmp_path / "images").mkdir()
    rows = []
    for number in range(10):
        Image.new("RGB", (28, 28), (number, 0, 0)).save(tmp_path / "images" / f"{number}.png")
        said = "Yes. " * (1 + number % 3)
        ask = {"from": "human", "value": "<image>\nIs it red?"}
        spoken = [ask, {"from": "gpt", "value": said}]
        rows.append({"id": number, "image": f"{number}.png", "conversations": spoken})
    rows[3]["image"] = "gone.png"
    (tmp_path / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    source = f'data = "{tmp_path}/rows.json", images = "{tmp_path}/images"'
    path = tmp_path / "recipe.toml"
    stage = "global_batch_size = 4\npack_length = 80\nconnector = {mode = 'full', lr = 1e-3}"
    path.write_text(
        f'''
name = "tiny"
prepared = "{tmp_path}/prepared"
vision.source = "{tiny_models}/vision"
language.source = "{tiny_models}/language"
[align]
{stage}
sources = [{{{source}}}]
[instruct]
{stage}
sources = [{{{source}, weight = 2}}]
''',
        encoding="utf-8",
    )
    return path


def test_it_says_what_is_dropped_and_planned(
    tmp_path: Path, tiny_models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = recipe_file(tmp_path, tiny_models)
    assert main(["prepare", str(path)]) == 0
    out = capsys.readouterr().out
    assert "dropped 1: image missing (record 3: " in out
    lines = [" ".join(line.replace("│", " ").split()) for line in out.splitlines()]
    assert "records of an epoch 9" in lines and "records of an epoch 18" in lines
    assert "steps 3" in lines and "steps 5" in lines
    assert lines[-1] == f"prepared 27 records; made {tmp_path}/prepared"
    kept = list((tmp_path / "prepared").glob("*/manifest.json"))
    assert len(kept) == 1, "both stages read the same rows by the same template"


def test_no_weights_are_read(
    tmp_path: Path, tiny_models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(tiny_models, bare, ignore=shutil.ignore_patterns("*.safetensors"))
    assert main(["prepare", str(recipe_file(tmp_path, bare)), "--stage", "align"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[-1] == f"prepared 9 records; made {tmp_path}/prepared"
    with pytest.raises(LaternaError, match="cannot read the vision encoder"):
        build_from_recipe(load_recipe(tmp_path / "recipe.toml"))


def test_the_plan_is_what_training_feeds(
    tmp_path: Path, tiny_models: Path, tiny_assistant: object
) -> None:
    recipe = load_recipe(recipe_file(tmp_path, tiny_models))
    prepared = preparation.prepare(
        recipe.instruct.mixture(),
        tiny_assistant.tokenizer,  # type: ignore[attr-defined]
        template=tiny_assistant.template,  # type: ignore[attr-defined]
        image_tokens=tiny_assistant.image_tokens,  # type: ignore[attr-defined]
        max_tokens=2048,
        folder=tmp_path / "prepared",
        workers=1,
    )
    plan = plan_stage(prepared, recipe.instruct, seed=7)
    steps = list(feed(prepared.samples, recipe.instruct, seed=7, fill=lambda batch: batch))
    batches = [batch for step in steps for batch in step.batches]
    assert (plan.steps, plan.batches) == (len(steps), len(batches))
    assert plan.rows == sum(len(batch.input_ids_rt) for batch in batches)
    assert plan.rows < plan.records == sum(len(batch.ids) for batch in batches) == 18
    assert plan.computed == sum(batch.input_ids_rt.numel() for batch in batches)
    assert plan.tokens == int(prepared.lengths.sum())
    assert prepared.learned.tolist() == [sum(sample.targets) for sample in prepared.samples]
