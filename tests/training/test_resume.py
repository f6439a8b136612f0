"""Saved states: what resumes, what is passed over, and that nothing half-written is taken."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

import laterna.files
import laterna.training.run
import laterna.training.setup
from laterna.data import fingerprints
from laterna.data.images.files import ImageFolder
from laterna.errors import LaternaError
from laterna.model.checkpoint import load_checkpoint
from laterna.recipe import (
    LoraSettings,
    OptimizerName,
    PartSettings,
    Recipe,
    RunSettings,
    StageName,
)
from laterna.training import resume
from laterna.training.parallel import ALONE
from laterna.training.run import train
from laterna.training.telemetry import read_metrics
from laterna.training.throughput import StepFigures

from .. import tiny
from .conftest import PowerCut, interrupt

STEPS = 8
SAVING = RunSettings(save_minutes=0, save_steps=2, save_total_limit=2)


@pytest.fixture
def short(recipe: Recipe) -> Recipe:
    """Eight steps a stage, a state every second; adapters with dropout in stage 2."""
    language = PartSettings(mode="lora", lr=5e-3)
    return msgspec.structs.replace(
        recipe,
        run=SAVING,
        lora=LoraSettings(r=4, alpha=8, dropout=0.2),
        align=msgspec.structs.replace(recipe.align, max_steps=STEPS),
        instruct=msgspec.structs.replace(recipe.instruct, max_steps=STEPS, language=language),
    )


def told(steps: list[StepFigures]) -> list[StepFigures]:
    """What a run computed: everything but how long it took."""
    times = {"seconds": 0, "model_seconds": 0, "vision_seconds": 0, "mfu": None}
    return [msgspec.structs.replace(step, **times) for step in steps]


def figures(folder: Path) -> list[StepFigures]:
    return told(read_metrics(folder / "metrics.jsonl"))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_checkpoint(folder).state_dict())


def require_same(one: Path, other: Path) -> None:
    assert figures(one) == figures(other)
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def cut_power(_path: Path) -> None:
    raise PowerCut


def states(out: Path) -> list[Path]:
    return sorted(out.with_name(f"{out.name}.state").glob("*/step-*"))


@pytest.mark.parametrize(
    ("stage", "optimizer"),
    [("align", "adamw"), ("instruct", "adamw"), ("instruct", "muon"), ("instruct", "adamw8bit")],
)
def test_an_interrupted_stage_ends_as_the_uninterrupted_one(
    short: Recipe, stage: StageName, optimizer: OptimizerName, tmp_path: Path
) -> None:
    if optimizer == "adamw8bit":
        pytest.importorskip("bitsandbytes")
    settings = msgspec.structs.replace(short.stage(stage), optimizer=optimizer)
    short = msgspec.structs.replace(short, **{stage: settings})
    whole = train(short, stage=stage, out=tmp_path / "whole")
    out = tmp_path / "cut"
    for step in (1, 5, 7):
        interrupt(short, stage, out, step)
    assert [state.name for state in states(out)] == ["step-00000004", "step-00000006"]
    require_same(whole, train(short, stage=stage, out=out))
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"images", "records.json", "prepared", "whole", "cut"}


def test_an_interrupted_flamingo_ends_as_the_uninterrupted_one(
    short: Recipe, tmp_path: Path
) -> None:
    """Resampler, blocks and gates are in its states, beside adapters of the language model."""
    short = tiny.flamingo(short)
    whole = train(short, stage="instruct", out=tmp_path / "whole")
    interrupt(short, "instruct", tmp_path / "cut", 5)
    require_same(whole, train(short, stage="instruct", out=tmp_path / "cut"))
    gates = [one for name, one in weights(whole).items() if name.endswith("gate")]
    assert len(gates) == 4
    assert all(float(one.abs()) > 0 for one in gates)


def test_an_interrupted_encoder_decoder_ends_as_the_uninterrupted_one(
    short: Recipe, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    """Adapters stand in encoder and decoder, and rows are packed."""
    short = tiny.encoder_decoder(short, tiny_tokenizer, tmp_path / "t5")
    whole = train(short, stage="instruct", out=tmp_path / "whole")
    interrupt(short, "instruct", tmp_path / "cut", 5)
    require_same(whole, train(short, stage="instruct", out=tmp_path / "cut"))
    losses = [step.loss for step in figures(whole)]
    assert losses[-1] < losses[0]


def test_a_run_killed_once_its_checkpoint_is_there_leaves_nothing_for_good(
    short: Recipe, tmp_path: Path
) -> None:
    interrupt(msgspec.structs.replace(short, seed=9), "align", tmp_path / "out", 7)
    real = laterna.files.flush

    def flush(path: Path) -> None:
        real(path)
        if path == tmp_path and (tmp_path / "out").exists():  # the last that saving does
            cut_power(path)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(PowerCut):
        patch.setattr(laterna.files, "flush", flush)
        train(short, stage="align", out=tmp_path / "out")
    assert len(states(tmp_path / "out")) == 4
    written = (tmp_path / "out" / "laterna.json").stat().st_mtime_ns
    train(short, stage="align", out=tmp_path / "out")
    assert (tmp_path / "out" / "laterna.json").stat().st_mtime_ns == written
    assert not (tmp_path / "out.metrics.jsonl").exists()
    assert len(states(tmp_path / "out")) == 2, "those of the other run stay"


def test_a_resumed_run_reads_neither_data_nor_images_and_fits_nothing_again(
    short: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprints, "RACY_NS", -1)
    short = msgspec.structs.replace(
        short,
        feature_cache=str(tmp_path / "features"),
        connector=msgspec.structs.replace(short.connector, calibrate=True),
        align=msgspec.structs.replace(short.align, shared_prefix=True, pack_length=0),
    )
    whole = train(short, stage="align", out=tmp_path / "whole")
    out = tmp_path / "cut"
    interrupt(short, "align", out, 5)
    read: list[Path] = []
    real = fingerprints.sha256_of
    monkeypatch.setattr(fingerprints, "sha256_of", lambda path: read.append(path) or real(path))
    monkeypatch.setattr(ImageFolder, "find", lambda folder, name: read.append(folder / name))
    monkeypatch.setattr(laterna.training.setup, "fit_connector", lambda *_: pytest.fail("fitted"))
    train(short, stage="align", out=out)
    ours = [tmp_path / name for name in ("prepared", "features", "cut.state", ".cut.")]
    theirs = [path for path in read if not str(path).startswith(tuple(map(str, ours)))]
    assert theirs == [], "what we wrote is held against its checksums, and nothing else is read"
    require_same(whole, out)


def test_a_run_does_not_go_on_over_other_records(short: Recipe, tmp_path: Path) -> None:
    image = tmp_path / "images" / "3.png"
    content = image.read_bytes()
    image.unlink()
    out = tmp_path / "cut"
    interrupt(short, "align", out, 5)
    image.write_bytes(content)
    with pytest.raises(LaternaError, match=r"from 11 records .* now 12 can .* start anew"):
        train(short, stage="align", out=out)
    shutil.rmtree(out.with_name("cut.state"))
    assert len(figures(train(short, stage="align", out=out))) == STEPS


def test_torn_and_foreign_states_are_named_and_passed_over(
    short: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = train(short, stage="align", out=tmp_path / "whole")
    out = tmp_path / "out"
    interrupt(msgspec.structs.replace(short, seed=9), "align", out, 7)
    foreign = states(out)[0].parent
    interrupt(short, "align", out, 7)
    [_, own] = [state for state in states(out) if state.parent != foreign]
    shards = sorted(own.glob("*.safetensors"))
    data = bytearray(shards[0].read_bytes())
    data[-1] ^= 1
    shards[0].write_bytes(data)
    (own.parent / ".step-00000008.part").mkdir()
    capsys.readouterr()
    require_same(whole, train(short, stage="align", out=out))
    said = "".join(capsys.readouterr().out.split())
    assert f"{shards[0]}:itschecksumdiffers,thestateistorn;passedover" in said
    assert f"{foreign}:statesofarunwithothersettingsordata,notused" in said
    assert "goingonafterstep4of8" in said
    assert foreign.is_dir() and not own.exists()


def test_a_state_with_any_file_damaged_is_passed_over(
    short: Recipe,
    tmp_path: Path,
    damage: Callable[[Path, str], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = train(short, stage="align", out=tmp_path / "whole")
    interrupt(short, "align", tmp_path / "cut", 7)
    for name in [path.name for path in states(tmp_path / "cut")[-1].iterdir()]:
        for how in ("flip", "cut"):
            out = tmp_path / f"{name}-{how}"
            shutil.copytree(tmp_path / "cut.state", out.with_name(f"{out.name}.state"))
            newest = states(out)[-1] / name
            damage(newest, how)
            if (name, how) == ("state.json", "cut"):  # of a line break that no reader needs
                damage(newest, how)
            found = resume.States(
                out.with_name(f"{out.name}.state"), run_of(newest.parent), ALONE, keep=2
            ).find()
            assert found.step == 4
            (remark,) = found.remarks
            assert name in remark and remark.endswith("passed over")
    capsys.readouterr()
    require_same(whole, train(short, stage="align", out=out))
    assert "going on after step 4 of 8" in capsys.readouterr().out


def run_of(state: Path) -> str:
    """The whole digest of a state's run; its folder has the first letters."""
    older = sorted(state.parent.iterdir())[0]
    return str(msgspec.json.decode((older / "state.json").read_bytes())["run"])


def test_a_state_without_its_manifest_or_a_file_is_torn(short: Recipe, tmp_path: Path) -> None:
    out = tmp_path / "out"
    interrupt(short, "align", out, 7)
    old, new = states(out)
    (new / "state.json").write_text("{")
    (old / "metrics.jsonl").unlink()
    run = msgspec.json.decode((old / "state.json").read_bytes())["run"]
    with pytest.raises(LaternaError, match=r"step-00000006: not a whole state"):
        resume._whole(new, run)
    with pytest.raises(LaternaError, match=r"metrics\.jsonl: missing, the state is torn"):
        resume._whole(old, run)
    with pytest.raises(LaternaError, match="of another run"):
        (new / "state.json").write_bytes((old / "state.json").read_bytes())
        resume._whole(new, "another")


def test_a_full_disk_leaves_no_half_state_and_the_one_before(
    short: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    interrupt(short, "align", out, 3)

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(resume, "flush_tree", full)
        with pytest.raises(LaternaError, match=r"step-00000004.*No space left.*make room and run"):
            train(short, stage="align", out=out)
    assert [state.name for state in states(out)] == ["step-00000002"]
    assert not list(out.with_name("out.state").glob("*/.*"))
    require_same(
        train(short, stage="align", out=tmp_path / "whole"), train(short, stage="align", out=out)
    )


@pytest.mark.parametrize(
    ("number", "ending", "status"),
    [(signal.SIGTERM, SystemExit, 143), (signal.SIGINT, KeyboardInterrupt, None)],
)
def test_a_signal_ends_the_run_after_saving(
    short: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    ending: type[BaseException],
    status: int | None,
) -> None:
    out = tmp_path / "out"
    real = laterna.training.run.train_steps

    def signalled(*args: Any, **kwargs: Any) -> Iterator[StepFigures]:
        for done in real(*args, **kwargs):
            if done.step == 5:
                os.kill(os.getpid(), number)
            yield done

    handler = signal.getsignal(number)
    with monkeypatch.context() as patch, pytest.raises(ending) as caught:
        patch.setattr(laterna.training.run, "train_steps", signalled)
        train(short, stage="align", out=out)
    assert getattr(caught.value, "code", None) == status
    assert signal.getsignal(number) == handler
    assert [state.name for state in states(out)][-1] == "step-00000005"
    require_same(
        train(short, stage="align", out=tmp_path / "whole"), train(short, stage="align", out=out)
    )


DRIVER = """
import sys
from pathlib import Path
import msgspec
from laterna.recipe import Recipe
from laterna.training.run import train
recipe = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Recipe)
out = Path(sys.argv[2])
start = train(recipe, stage="align", out=out / "align")
train(recipe, stage="instruct", out=out / "instruct", init_from=start)
"""


@pytest.mark.slow
def test_kill_9_at_any_moment_of_either_stage_changes_nothing(
    short: Recipe, tmp_path: Path
) -> None:
    recipe = msgspec.structs.replace(short, run=RunSettings(save_minutes=0, save_steps=1))
    (tmp_path / "recipe.json").write_bytes(msgspec.json.encode(recipe))

    def start(out: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", DRIVER, str(tmp_path / "recipe.json"), str(out)]
        source = str(Path(laterna.__file__).parents[1])
        return subprocess.Popen(
            command, stdout=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": source}
        )

    whole, out = tmp_path / "whole", tmp_path / "out"
    assert start(whole).wait() == 0
    moments: list[Callable[[], bool]] = [
        lambda: any(out.glob("align.state/*/step-00000003")),
        lambda: any(out.glob("align.state/*/.step-*.part")),
        lambda: (out / "align").exists(),
        lambda: any(out.glob("instruct.state/*/.step-*.part/*")),
        lambda: any(out.glob("instruct.state/*/step-00000006")),
    ]
    for reached in moments:
        process = start(out)
        while not reached() and process.poll() is None:
            time.sleep(0.0005)
        process.kill()
        process.wait()
    assert start(out).wait() == 0
    for stage in ("align", "instruct"):
        require_same(whole / stage, out / stage)
