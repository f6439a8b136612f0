"""Runs that go wrong: what was destroyed is no checkpoint, and what is missing is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import load_file, save_file

from laterna.cli import main
from laterna.errors import LaternaError
from laterna.model.checkpoint import read_manifest
from laterna.model.language import causal
from laterna.recipe import PartSettings, Recipe, RunSettings, SourceSettings
from laterna.report.training import run_content
from laterna.training.run import train
from laterna.training.telemetry import read_metrics
from laterna.training.train_state import TrainState

from .test_resume import require_same, states


def align(recipe: Recipe, **changes: object) -> Recipe:
    return msgspec.structs.replace(
        recipe, align=msgspec.structs.replace(recipe.align, **{"warmup_ratio": 0.0, **changes})
    )


def connector(lr: float) -> PartSettings:
    return PartSettings(mode="full", lr=lr)


@pytest.fixture
def running_wild(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets what no recipe may say; each after so many steps."""
    real = TrainState.set_rates

    def change(after: int = 0, **settings: float) -> None:
        def set_rates(train_state: TrainState, step: int) -> float:
            rate = real(train_state, step)
            if step >= after:
                for group in train_state.optimizer.groups:
                    group.update(settings)
            return rate

        monkeypatch.setattr(TrainState, "set_rates", set_rates)

    return change


@pytest.mark.parametrize(
    ("steps", "changes", "said"),
    [
        (1, {"lr": 1e30}, r"after it a weight is as large as 1e\+30, above 65504"),
        (3, {"lr": 1e30}, "after it"),  # the others were skipped
        (1, {"lr": 1e15}, r"after it a weight is as large as 1e\+15, above 65504"),
        (1, {"weight_decay": 1e38, "lr": 1e3}, "after it"),
        (8, {"weight_decay": 1e38, "lr": 1e3}, "after it"),
    ],
)
def test_destroyed_weights_are_no_checkpoint(
    recipe: Recipe,
    tmp_path: Path,
    running_wild: Callable[..., None],
    steps: int,
    changes: dict[str, float],
    said: str,
) -> None:
    running_wild(**changes)
    out = tmp_path / "out"
    for _ in range(2):  # a second start says the same
        told = rf"diverged at step 1: ({said}).*No checkpoint was made.*Lower the"
        with pytest.raises(LaternaError, match=told):
            train(align(recipe, max_steps=steps), stage="align", out=out)
        assert not out.exists()
        assert len(read_metrics(tmp_path / "out.metrics.jsonl")) >= 1


def test_weights_that_are_worse_than_guessing_are_no_checkpoint(
    recipe: Recipe, tmp_path: Path, running_wild: Callable[..., None]
) -> None:
    """Finite and small, but of no use: all of the language model was moved by 3."""
    running_wild(lr=3.0)
    stage = msgspec.structs.replace(recipe.instruct, max_steps=1, warmup_ratio=0.0)
    told = r"after it the loss of its own records is \d+(\.\d+)?, where [56]\.\d* is that of"
    with pytest.raises(LaternaError, match=told):
        train(
            msgspec.structs.replace(recipe, instruct=stage), stage="instruct", out=tmp_path / "out"
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["lr", "weight_decay"])
def test_numbers_that_are_not_finite_are_refused_before_any_step(
    recipe: Recipe, tmp_path: Path, name: str
) -> None:
    value = float("inf")
    changes = {"connector": connector(value)} if name == "lr" else {"weight_decay": value}
    with pytest.raises(LaternaError, match=r"inf|finite"):
        train(align(recipe, **changes), stage="align", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_states_before_a_divergence_are_kept_and_gone_on_from(
    recipe: Recipe, tmp_path: Path, running_wild: Callable[..., None]
) -> None:
    run = RunSettings(save_minutes=0, save_steps=1, save_total_limit=2)
    ours = msgspec.structs.replace(align(recipe, max_steps=6), run=run)
    whole = train(ours, stage="align", out=tmp_path / "whole")
    real = TrainState.set_rates
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainState, "set_rates", real)  # what stands there is put back at the end
        running_wild(after=3, lr=1e30)
        with pytest.raises(LaternaError, match="diverged at step 4: after it"):
            train(ours, stage="align", out=tmp_path / "out")
    assert [state.name for state in states(tmp_path / "out")] == ["step-00000002", "step-00000003"]
    assert len(read_metrics(tmp_path / "out.metrics.jsonl")) == 4
    require_same(whole, train(ours, stage="align", out=tmp_path / "out"))


@pytest.fixture
def holed(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """A recipe whose model knows no number for one token, which only validation records have."""
    monkeypatch.setattr(causal, "require_finite", lambda *_: None)  # such a source is refused
    language = shutil.copytree(recipe.language.source, tmp_path / "language")
    weights = load_file(language / "model.safetensors")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(language)
    (token,) = tokenizer("Q", add_special_tokens=False).input_ids
    weights["model.embed_tokens.weight"][token] = torch.nan
    save_file(weights, language / "model.safetensors", metadata={"format": "pt"})
    row = {"id": "odd", "image": "0.png", "conversations": [
        {"from": "human", "value": "<image>\nQ"}, {"from": "gpt", "value": "Q"}]}  # fmt: skip
    (tmp_path / "odd.json").write_text(json.dumps([row]))
    copies = shutil.copytree(tmp_path / "images", tmp_path / "copies")
    sources = (
        SourceSettings(data=recipe.align.data, images=recipe.align.images),
        SourceSettings(data=str(tmp_path / "odd.json"), images=str(copies), weight=0),
    )
    settings = msgspec.structs.replace(recipe.language, source=str(language))
    ours = align(recipe, max_steps=2, pack_length=0, data="", images="", sources=sources)
    return msgspec.structs.replace(ours, language=settings)


def test_a_validation_loss_that_is_not_finite_is_told_as_such_and_ends_no_run(
    holed: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = train(holed, stage="align", out=tmp_path / "run" / "align")
    assert "validation loss not finite over 1 records" in capsys.readouterr().out
    steps = read_metrics(out / "metrics.jsonl")
    assert [step.validation.loss if step.validation else 0.0 for step in steps] == [0.0, None]
    assert run_content(tmp_path / "run").summary.endswith("validation loss not finite.")
    train(holed, stage="align", out=out)
    assert "done before" in capsys.readouterr().out


def test_steps_that_lost_all_their_images_name_them(recipe: Recipe, tmp_path: Path) -> None:
    ours = align(recipe, max_steps=4, global_batch_size=3)
    ours = msgspec.structs.replace(ours, run=RunSettings(max_skipped=1, workers=0))
    train(ours, stage="align", out=tmp_path / "prepared_by_this")
    shutil.rmtree(tmp_path / "images")
    (tmp_path / "images").mkdir()
    with pytest.raises(LaternaError) as caught:
        train(ours, stage="align", out=tmp_path / "out")
    said = str(caught.value)
    assert said.startswith("step 2: none of its records is left, as in 2 steps in a row, for their")
    named = [number for number in range(12) if f"record {number} ({number}.png: imag" in said]
    assert len(named) == 6
    assert "learning rate" not in said
    assert "see that the images are whole and lie where the recipe says" in said


def test_one_step_that_lost_its_images_is_counted_and_told(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = align(recipe, max_steps=12, global_batch_size=1)
    train(ours, stage="align", out=tmp_path / "prepared_by_this")
    (tmp_path / "images" / "4.png").unlink()
    capsys.readouterr()
    out = train(ours, stage="align", out=tmp_path / "out")
    steps = read_metrics(out / "metrics.jsonl")
    assert (len(steps), read_manifest(out).figures["steps"]) == (11, 11)
    assert {step.skipped for step in steps} == {0}, "nothing was not finite"
    said = " ".join(capsys.readouterr().out.split())
    assert "no record left, for their images are missing or cannot be read, 1 steps skipped" in said


def test_a_diverged_run_ends_with_status_2(
    recipe: Recipe,
    tmp_path: Path,
    running_wild: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    running_wild(lr=1e30)
    stage = f'data = "{recipe.align.data}"\nimages = "{recipe.align.images}"\nwarmup_ratio = 0\n'
    stage += 'connector = {mode = "full", lr = 1e-3}\nmax_steps = 1\n'
    models = f'vision.source = "{recipe.vision.source}"\n'
    models += f'language.source = "{recipe.language.source}"\n'
    path, out = tmp_path / "tiny.toml", tmp_path / "out"
    head = f'name = "tiny"\nprepared = "{recipe.prepared}"\n'
    path.write_text(f"{head}{models}[align]\n{stage}[instruct]\n{stage}")
    assert main(["train", str(path), "--out", str(out)]) == 2
    assert "diverged at step 1" in " ".join(capsys.readouterr().err.split())
    assert not (out / "align").exists()
