from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image

from laterna.errors import LaternaError
from laterna.model.assistant import load_assistant_from
from laterna.model.checkpoint import load_checkpoint, read_manifest
from laterna.model.generation import generate_answers
from laterna.recipe import Recipe, StageName
from laterna.records import Turn
from laterna.training.run import train
from laterna.training.telemetry import read_metrics

COLOURS = {"red": (230, 20, 20), "blue": (20, 20, 230), "green": (20, 200, 20)}
QUESTION = "<image>\nWhat colour is it?"


@pytest.fixture
def recipe(tiny_recipe: Recipe, tmp_path: Path) -> Recipe:
    """The tiny recipe with 12 plain pictures, each of one colour that its answer names."""
    images = tmp_path / "images"
    images.mkdir()
    random = np.random.default_rng(1)
    rows = []
    for number in range(12):
        name, colour = list(COLOURS.items())[number % 3]
        noise = random.integers(-15, 15, (28, 28, 3))
        pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(images / f"{number}.png")
        turns = [{"from": "human", "value": QUESTION}, {"from": "gpt", "value": name}]
        rows.append({"id": number, "image": f"{number}.png", "conversations": turns})
    (tmp_path / "records.json").write_text(json.dumps(rows))
    stages = {
        name: msgspec.structs.replace(tiny_recipe.stage(name), epochs=10, row_tokens=64)
        for name in ("align", "instruct")
    }
    stages["instruct"] = msgspec.structs.replace(stages["instruct"], epochs=20)
    stages["align"] = msgspec.structs.replace(stages["align"], template="plain")
    return msgspec.structs.replace(tiny_recipe, **stages)


def losses(folder: Path) -> list[float]:
    return [step.loss for step in read_metrics(folder / "metrics.jsonl")]


def test_two_stages_teach_the_tiny_assistant_its_colours(recipe: Recipe, tmp_path: Path) -> None:
    align = train(recipe, stage="align", out=tmp_path / "align")
    out = train(recipe, stage="instruct", out=tmp_path / "instruct", start=align)
    assert (read_manifest(align).parts, read_manifest(out).parts) == (
        ("connector",),
        ("connector", "language"),
    )
    assert (len(losses(align)), len(losses(out))) == (30, 60)
    assert losses(out)[-1] < 0.2 * losses(out)[0]
    figures = read_manifest(out).figures
    assert (figures["steps"], figures["loss_first"]) == (60, losses(out)[0])
    assistant = load_checkpoint(out)
    prompts = [
        ([Turn(role="user", text=QUESTION)], [Image.new("RGB", (28, 28), colour)])
        for colour in COLOURS.values()
    ]
    assert generate_answers(assistant, prompts, max_new_tokens=8) == list(COLOURS)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"images", "records.json", "prepared", "align", "instruct"}


def test_cached_features_give_the_run_that_computed_ones_give(
    recipe: Recipe, tmp_path: Path
) -> None:
    direct = losses(train(recipe, stage="align", out=tmp_path / "direct"))
    again = losses(train(recipe, stage="align", out=tmp_path / "again"))
    cached = msgspec.structs.replace(recipe, feature_cache=str(tmp_path / "cache"))
    stored = losses(train(cached, stage="align", out=tmp_path / "stored"))
    assert again == direct
    assert stored == pytest.approx(direct, abs=1e-5)
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_stage_may_train_the_encoder_too(recipe: Recipe, tmp_path: Path) -> None:
    part = recipe.align.connector
    align = msgspec.structs.replace(recipe.align, vision=part, max_steps=2)
    ours = msgspec.structs.replace(recipe, align=align, feature_cache=str(tmp_path / "cache"))
    out = train(ours, stage="align", out=tmp_path / "out")
    assert read_manifest(out).parts == ("connector", "vision")
    assert not (tmp_path / "cache").exists()
    trained = load_checkpoint(out).vision.weights()
    before = load_assistant_from(ours).vision.weights()
    moved = {name for name in before if not torch.equal(before[name], trained[name])}
    assert {name for name in moved if name.startswith(("encoder.layers.2.", "post_"))} == set()
    assert {f"encoder.layers.{layer}.mlp.fc1.weight" for layer in (0, 1)} <= moved


def test_dropped_records_are_counted_aloud(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "images" / "3.png").unlink()
    align = msgspec.structs.replace(recipe.align, max_steps=1)
    train(msgspec.structs.replace(recipe, align=align), stage="align", out=tmp_path / "out")
    said = capsys.readouterr().out
    assert "11 records prepared" in said
    assert "dropped 1: picture missing" in said


def test_the_assistant_is_not_served_with_a_template_it_was_not_taught(
    recipe: Recipe, tmp_path: Path
) -> None:
    instruct = msgspec.structs.replace(recipe.instruct, template="vicuna_v1")
    ours = msgspec.structs.replace(recipe, instruct=instruct)
    with pytest.raises(LaternaError, match=r"instruct\.template = 'vicuna_v1' but .* 'own'"):
        train(ours, stage="instruct", out=tmp_path / "out")


@pytest.mark.parametrize("stage", ["align", "instruct"])
def test_a_start_of_another_recipe_is_refused(
    recipe: Recipe, tmp_path: Path, stage: StageName
) -> None:
    short = msgspec.structs.replace(
        recipe, align=msgspec.structs.replace(recipe.align, max_steps=1)
    )
    start = train(short, stage="align", out=tmp_path / "align")
    linear = msgspec.structs.replace(recipe.connector, kind="linear")
    other = msgspec.structs.replace(recipe, connector=linear)
    with pytest.raises(LaternaError, match=r"other \[connector\] settings than recipe tiny"):
        train(other, stage=stage, out=tmp_path / "out", start=start)
