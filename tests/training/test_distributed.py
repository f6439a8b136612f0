"""Two ranks against one: losses, weights and checkpoints are the same whatever the engine."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

import laterna.training.run
from laterna.model.checkpoint import load_checkpoint
from laterna.recipe import (
    Engine,
    LoraSettings,
    PartSettings,
    Recipe,
    RunSettings,
    load_recipe,
)
from laterna.training.run import train
from laterna.training.telemetry import read_metrics
from laterna.training.throughput import Validation

from .. import tiny
from .conftest import interrupt

DRIVER = """
import sys
import time
from pathlib import Path
import msgspec
from laterna.recipe import Recipe
from laterna.training.run import train
recipe = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Recipe)
train(recipe, stage="instruct", out=Path(sys.argv[2]))
"""


@pytest.fixture
def mixed(recipe: Recipe, tmp_path: Path) -> Recipe:
    """Every part trains, on packs of which many hold no image, and some steps too few packs."""
    rows = json.loads((tmp_path / "records.json").read_text())
    for row in rows[4:]:
        del row["image"]
        row["conversations"][0]["value"] = "What colour is it, " + "please " * row["id"] + "?"
    rows.append(rows[-1] | {"id": "last"})
    (tmp_path / "records.json").write_text(json.dumps(rows))
    part = PartSettings(mode="full", lr=2e-3)
    stage = msgspec.structs.replace(
        recipe.instruct,
        vision=part,
        connector=part,
        language=part,
        epochs=2.0,
        global_batch_size=4,
        pack_length=40,
        micro_batch_tokens=80,
    )
    return msgspec.structs.replace(
        recipe, instruct=stage, run=RunSettings(save_minutes=0, save_steps=2, save_total_limit=9)
    )


def on_two_ranks(recipe: Recipe, out: Path) -> subprocess.Popen[bytes]:
    """Start a run as `torchrun` starts it, without its launcher, whose import takes seconds."""
    path = out.with_name(f"{out.name}.recipe.json")
    path.write_bytes(msgspec.json.encode(recipe))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    script = out.with_name("driver.py")
    script.write_text(DRIVER)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command += ["--master-port", str(port), str(script), str(path), str(out)]
    source = str(Path(laterna.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment)


def losses(folder: Path) -> list[float]:
    return [step.loss for step in read_metrics(folder / "metrics.jsonl")]


def require_alike(one: Path, other: Path) -> None:
    # Before any update the losses differ by the order of sums alone; updates then add to that.
    assert losses(one)[0] == pytest.approx(losses(other)[0], rel=1e-6)
    assert losses(one) == pytest.approx(losses(other), abs=1e-5)
    assert sorted(str(path.relative_to(one)) for path in one.rglob("*")) == sorted(
        str(path.relative_to(other)) for path in other.rglob("*")
    )
    first, second = load_checkpoint(one).state_dict(), load_checkpoint(other).state_dict()
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=2e-4, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ddp", "fsdp"])
@pytest.mark.parametrize("lora", [False, True])
def test_two_ranks_learn_what_one_learns(
    mixed: Recipe, tmp_path: Path, engine: Engine, lora: bool
) -> None:
    if lora:
        adapted = PartSettings(mode="lora", lr=5e-3)
        frozen = PartSettings()
        stage = msgspec.structs.replace(mixed.instruct, language=adapted, vision=frozen)
        mixed = msgspec.structs.replace(
            mixed, instruct=stage, lora=LoraSettings(r=4, alpha=8, dropout=0.0)
        )
    alone = train(mixed, stage="instruct", out=tmp_path / "alone")
    run = msgspec.structs.replace(mixed.run, engine=engine)
    together = tmp_path / "together"
    assert on_two_ranks(msgspec.structs.replace(mixed, run=run), together).wait(timeout=900) == 0
    require_alike(together, alone)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ddp", "fsdp"])
def test_two_ranks_learn_by_cross_attention_what_one_learns(
    mixed: Recipe, tmp_path: Path, engine: Engine
) -> None:
    """Many packs hold no image, so a rank often has none."""
    mixed = tiny.flamingo(mixed, gate=0.5)
    alone = train(mixed, stage="instruct", out=tmp_path / "alone")
    run = msgspec.structs.replace(mixed.run, engine=engine)
    together = tmp_path / "together"
    assert on_two_ranks(msgspec.structs.replace(mixed, run=run), together).wait(timeout=900) == 0
    require_alike(together, alone)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ddp", "fsdp"])
def test_two_ranks_learn_by_encoder_and_decoder_what_one_learns(
    mixed: Recipe, tiny_tokenizer: Any, tmp_path: Path, engine: Engine
) -> None:
    """Rows are taken apart on each rank for itself, and have several answers."""
    mixed = tiny.encoder_decoder(mixed, tiny_tokenizer, tmp_path / "t5")
    alone = train(mixed, stage="instruct", out=tmp_path / "alone")
    run = msgspec.structs.replace(mixed.run, engine=engine)
    together = tmp_path / "together"
    assert on_two_ranks(msgspec.structs.replace(mixed, run=run), together).wait(timeout=900) == 0
    require_alike(together, alone)


def looks(folder: Path) -> list[tuple[int, Validation]]:
    steps = read_metrics(folder / "metrics.jsonl")
    return [(step.step, step.validation) for step in steps if step.validation is not None]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ddp", "fsdp"])
def test_two_ranks_see_of_what_is_held_out_what_one_sees(
    mixed: Recipe, tmp_path: Path, engine: Engine
) -> None:
    """Some ranks have no image to look at, and there is an odd number of records."""
    stage = msgspec.structs.replace(mixed.instruct, validation=0.3)
    run = msgspec.structs.replace(mixed.run, eval_steps=2, engine=engine)
    looking = msgspec.structs.replace(mixed, instruct=stage, run=run)
    alone = train(looking, stage="instruct", out=tmp_path / "alone")
    together = tmp_path / "together"
    assert on_two_ranks(looking, together).wait(timeout=900) == 0
    require_alike(together, alone)
    assert [step for step, _ in looks(together)] == [step for step, _ in looks(alone)] == [2, 4, 5]
    for (_, seen), (_, expected) in zip(looks(together), looks(alone), strict=True):
        assert seen.loss == pytest.approx(expected.loss, abs=1e-5)
        assert (seen.records, seen.target_tokens) == (expected.records, expected.target_tokens)
        assert len(expected.answers) == 3
        assert seen.answers == (expected.answers if engine == "ddp" else ())


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ddp", "fsdp"])
def test_two_ranks_that_compute_layers_again_learn_what_one_learns(
    mixed: Recipe, tmp_path: Path, engine: Engine
) -> None:
    alone = train(mixed, stage="instruct", out=tmp_path / "alone")
    run = msgspec.structs.replace(mixed.run, engine=engine)
    saving = msgspec.structs.replace(mixed, run=run, gradient_checkpointing=True)
    together = tmp_path / "together"
    assert on_two_ranks(saving, together).wait(timeout=900) == 0
    require_alike(together, alone)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ddp", "fsdp"])
def test_two_ranks_in_16_bits_learn_what_one_learns_in_them(
    mixed: Recipe, tmp_path: Path, engine: Engine
) -> None:
    """With the savings of the llava recipes, and their vision tower, which does not train."""
    stage = msgspec.structs.replace(mixed.instruct, vision=PartSettings())
    plain = msgspec.structs.replace(mixed, instruct=stage)
    assert load_recipe("llava-1.5-7b").savings == ("bf16", "checkpointing")
    run = msgspec.structs.replace(mixed.run, engine=engine)
    half = msgspec.structs.replace(plain.with_savings("bf16", "checkpointing"), run=run)
    exact = train(plain, stage="instruct", out=tmp_path / "exact")
    alone = train(half, stage="instruct", out=tmp_path / "alone")
    together = tmp_path / "together"
    assert on_two_ranks(half, together).wait(timeout=900) == 0
    assert losses(together) == pytest.approx(losses(alone), abs=2e-2)
    assert losses(together) == pytest.approx(losses(exact), abs=5e-2)
    assert losses(together) != pytest.approx(losses(exact), abs=1e-5)
    first, second = (load_checkpoint(out).state_dict() for out in (together, alone))
    assert {name: one.dtype for name, one in first.items()} == {
        name: one.dtype for name, one in second.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ddp", "fsdp"])
def test_a_state_of_two_ranks_goes_on_in_one(
    mixed: Recipe, tmp_path: Path, engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = train(mixed, stage="instruct", out=tmp_path / "alone")
    run = msgspec.structs.replace(mixed.run, engine=engine)
    out = tmp_path / "out"
    process = on_two_ranks(msgspec.structs.replace(mixed, run=run), out)
    while not list(tmp_path.glob("out.state/*/step-00000002")) and process.poll() is None:
        time.sleep(0.001)
    process.terminate()
    assert process.wait(timeout=900) != 0
    capsys.readouterr()
    train(mixed, stage="instruct", out=out)
    assert "going on after step" in capsys.readouterr().out
    require_alike(out, alone)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ddp", "fsdp"])
def test_a_state_of_one_rank_goes_on_in_two(
    mixed: Recipe,
    tmp_path: Path,
    engine: Engine,
    capfd: pytest.CaptureFixture[str],
) -> None:
    alone = train(mixed, stage="instruct", out=tmp_path / "alone")
    out = tmp_path / "out"
    interrupt(mixed, "instruct", out, 3)
    run = msgspec.structs.replace(mixed.run, engine=engine)
    capfd.readouterr()
    assert on_two_ranks(msgspec.structs.replace(mixed, run=run), out).wait(timeout=900) == 0
    said = capfd.readouterr().out
    assert "going on after step 2 of 7" in said
    require_alike(out, alone)
