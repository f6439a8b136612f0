"""Validation: its loss by value, and that training does not notice it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from laterna.model.checkpoint import load_checkpoint
from laterna.recipe import LoraSettings, PartSettings, Recipe, RunSettings, SourceSettings
from laterna.training.run import train
from laterna.training.telemetry import read_metrics
from laterna.training.throughput import StepFigures
from laterna.training.validation import _evaluating

from .conftest import interrupt

STEPS = 6


@pytest.fixture
def short(recipe: Recipe) -> Recipe:
    """Six steps of stage 2 with a quarter for validation; adapters with dropout."""
    instruct = msgspec.structs.replace(
        recipe.instruct,
        max_steps=STEPS,
        validation=0.25,
        language=PartSettings(mode="lora", lr=5e-3),
    )
    lora = LoraSettings(r=4, alpha=8, dropout=0.2)
    return msgspec.structs.replace(recipe, instruct=instruct, lora=lora)


def looking(recipe: Recipe, every: int, **run: Any) -> Recipe:
    settings = RunSettings(eval_steps=every, save_minutes=0, **run)
    return msgspec.structs.replace(recipe, run=settings)


def steps_of(folder: Path) -> list[StepFigures]:
    return read_metrics(folder / "metrics.jsonl")


def test_training_does_not_notice_validation(short: Recipe, tmp_path: Path) -> None:
    seldom = train(looking(short, 0), stage="instruct", out=tmp_path / "seldom")
    often = train(looking(short, 2), stage="instruct", out=tmp_path / "often")
    seen = [step.step for step in steps_of(often) if step.validation]
    assert (seen, [step.step for step in steps_of(seldom) if step.validation]) == ([2, 4, 6], [6])
    exact = [[(one.loss, one.grad_norm) for one in steps_of(out)] for out in (seldom, often)]
    assert exact[0] == exact[1]
    first, second = (load_checkpoint(out).state_dict() for out in (seldom, often))
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def test_the_loss_is_that_of_a_step_over_the_same_records(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Held out is what is trained on, and the rate is nothing: both losses are of one model."""
    part = PartSettings(mode="full", lr=1e-30)
    data, images = recipe.instruct.data, recipe.instruct.images
    # Copies: of the very images that are held out, none would be trained on.
    copies = shutil.copytree(images, tmp_path / "copies")
    instruct = msgspec.structs.replace(
        recipe.instruct,
        data="",
        images="",
        sources=(
            SourceSettings(data=data, images=images),
            SourceSettings(data=data, images=str(copies), weight=0),
        ),
        global_batch_size=12,
        max_steps=1,
        connector=part,
        language=part,
    )
    ours = msgspec.structs.replace(recipe, instruct=instruct)
    out = train(ours, stage="instruct", out=tmp_path / "out")
    [step] = steps_of(out)
    assert step.validation is not None
    assert step.validation.loss == pytest.approx(step.loss, abs=3e-6)
    assert step.validation.target_tokens == step.target_tokens
    assert step.validation.records == 12
    said = capsys.readouterr().out
    assert "12 records prepared" in said and "12 more for validation" in said
    assert f"step 1: validation loss {step.loss:.3f} over 12 records" in said


def test_answers_are_what_the_assistant_says(
    recipe: Recipe, colours: dict[str, tuple[int, int, int]], tmp_path: Path
) -> None:
    instruct = msgspec.structs.replace(recipe.instruct, validation=0.25)
    cached = msgspec.structs.replace(
        recipe, instruct=instruct, feature_cache=str(tmp_path / "cache")
    )
    out = train(cached, stage="instruct", out=tmp_path / "out")
    last = steps_of(out)[-1]
    assert last.validation is not None
    assert last.validation.records == len(last.validation.answers) == 3
    assert {one.truth for one in last.validation.answers} <= set(colours)
    assert [one.answer for one in last.validation.answers] == [
        one.truth for one in last.validation.answers
    ]
    assert {one.prompt for one in last.validation.answers} == {
        "USER: \nWhat colour is it? ASSISTANT:"
    }


def test_a_resumed_run_has_the_validations_that_it_would_have_had(
    short: Recipe, tmp_path: Path
) -> None:
    ours = looking(short, 2, save_steps=3)
    whole = train(ours, stage="instruct", out=tmp_path / "whole")
    interrupt(ours, "instruct", tmp_path / "cut", 5)
    cut = train(ours, stage="instruct", out=tmp_path / "cut")
    found = [
        [
            (one.step, one.validation.loss, one.validation.answers)
            for one in steps_of(out)
            if one.validation
        ]
        for out in (whole, cut)
    ]
    assert len(found[0]) == 3
    assert found[0] == found[1]


def test_modes_are_put_back_one_by_one() -> None:
    module = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Dropout())
    module[0].training = False
    with _evaluating(module):
        assert [one.training for one in module.modules()] == [False] * 3
    assert [one.training for one in module.modules()] == [True, False, True]
