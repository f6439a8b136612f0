"""Trackers: what is told arrives, a run that goes on overwrites what it takes again."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest

from laterna.errors import LaternaError
from laterna.recipe import Recipe, RunSettings
from laterna.training.run import train
from laterna.training.telemetry import TrackedRun, read_metrics
from laterna.training.throughput import StepFigures, named_figures
from laterna.training.trackers import require_installed
from laterna.training.trackers.tensorboard import TensorBoardTracker
from laterna.training.train_state import TrainState


def figures(step: int, loss: float) -> StepFigures:
    return StepFigures(
        step=step,
        loss=loss,
        lr=0.1,
        grad_norm=1.0,
        target_tokens=100,
        tokens=300,
        padding=30,
        images=8,
        seconds=0.5,
    )


def drawn(folder: Path, name: str) -> list[tuple[int, float]]:
    """The curve that TensorBoard draws from a folder's event files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return [(one.step, one.value) for one in events.Scalars(name)]


class Trackio(ModuleType):
    """Trackio's three functions, with their public signatures, that remember what they are told."""

    def __init__(self) -> None:
        super().__init__("trackio")
        self.__spec__ = sys.__spec__  # what says that it is installed
        self.told: list[Any] = []

    def init(self, project: str, name: str, config: dict[str, Any], resume: str) -> None:
        self.told.append((project, name, config["vision"]["layer"], resume))

    def log(self, metrics: dict[str, float], step: int) -> None:
        self.told.append((step, metrics))

    def finish(self) -> None:
        self.told.append("finished")


@pytest.fixture
def trackio(monkeypatch: pytest.MonkeyPatch) -> Trackio:
    module = Trackio()
    monkeypatch.setitem(sys.modules, "trackio", module)
    return module


def test_an_unknown_tracker_is_named_with_the_known() -> None:
    with pytest.raises(LaternaError, match="mlflow: no such tracker; known are: tensorboard, trac"):
        require_installed(("mlflow",))


def test_figures_have_speeds_by_the_second() -> None:
    named = named_figures(figures(1, 2.0))
    assert named["train/loss"] == 2.0
    assert named["speed/target_tokens_per_second"] == 200
    assert named["speed/tokens_per_second"] == 600
    assert named["speed/images_per_second"] == 16
    assert named["speed/padding_share"] == 0.1


def test_tensorboard_draws_a_run_that_went_on_as_one_curve(
    tiny_recipe: Recipe, tmp_path: Path
) -> None:
    first = TrackedRun(tiny_recipe, "align", tmp_path / "align", "d" * 64, done=0)
    killed = TensorBoardTracker(first)
    for step in (1, 2, 3):
        killed.step(figures(step, 4.0 - step))
    killed.close()
    goes_on = TensorBoardTracker(first._replace(done=1))
    for step in (2, 3, 4):
        goes_on.step(figures(step, 40.0 - step))
    goes_on.close()
    curve = drawn(tmp_path / "align.tensorboard", "train/loss")
    assert curve == [(1, 3.0), (2, 38.0), (3, 37.0), (4, 36.0)]


def test_a_stage_tells_all_its_trackers_what_its_file_holds(
    recipe: Recipe, tmp_path: Path, trackio: Trackio
) -> None:
    ours = msgspec.structs.replace(
        recipe,
        run=RunSettings(report_to=("tensorboard", "trackio")),
        align=msgspec.structs.replace(recipe.align, max_steps=3),
    )
    out = train(ours, stage="align", out=tmp_path / "out")
    steps = read_metrics(out / "metrics.jsonl")
    assert [step.step for step in steps] == [1, 2, 3]
    started, *logged, finished = trackio.told
    project, name, layer, resume = started
    assert (project, name.partition("-")[0], layer, resume) == ("tiny", "align", -2, "allow")
    assert len(name) == len("align-") + 8
    assert logged == [(step.step, named_figures(step)) for step in steps]
    assert finished == "finished"
    curve = drawn(tmp_path / "out.tensorboard", "train/loss")
    assert curve == [(step.step, pytest.approx(step.loss)) for step in steps]


def test_a_run_that_breaks_closes_its_trackers(
    recipe: Recipe, tmp_path: Path, trackio: Trackio, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = RunSettings(report_to=("trackio",), max_skipped=0, max_faulty=0)
    align = msgspec.structs.replace(
        recipe.align, connector=msgspec.structs.replace(recipe.align.connector, lr=1.0)
    )
    broken = msgspec.structs.replace(recipe, run=settings, align=align)

    def set_rates(train_state: TrainState, _: int) -> float:
        for group in train_state.optimizer.groups:
            group["lr"] = 1e38  # more than a recipe may say
        return 1e38

    monkeypatch.setattr(TrainState, "set_rates", set_rates)
    with pytest.raises(LaternaError, match="not finite"):
        train(broken, stage="align", out=tmp_path / "out")
    assert trackio.told[-1] == "finished"


def test_a_tracker_that_is_not_installed_says_how_to_install_it(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("laterna.training.trackers.find_spec", lambda name: None)
    require_installed(())
    ours = msgspec.structs.replace(recipe, run=RunSettings(report_to=("tensorboard",)))
    with pytest.raises(LaternaError, match=r"tensorboard is not installed; pip install 'laterna\["):
        train(ours, stage="align", out=tmp_path / "out")
    assert not (tmp_path / "prepared").exists()
