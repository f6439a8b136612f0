"""The two sides of benchmarks/training.py learn the same from the same, with parts and without."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest

ROOT = Path(__file__).parents[2]
STEPS = 2


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    """Load the scripts as they load each other, from their folder."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    names = ("training_sides", "training_shapes", "training_parts")
    return {name: importlib.import_module(name) for name in names}


def job(scripts: dict[str, ModuleType], folder: Path, stage: str) -> Any:
    shapes = scripts["training_shapes"]
    data = {
        "align": shapes.write_captions(folder, images=6),
        "instruct": shapes.write_instructions(folder, None, None),
    }
    recipe = shapes.recipe_of(shapes.SHAPES["tiny"], folder, data, threads=1)
    return shapes.make_job(shapes.SHAPES["tiny"], recipe, stage, folder, STEPS)


@pytest.mark.parametrize("stage", ["align", "instruct"])
def test_both_sides_take_the_same_steps(
    scripts: dict[str, ModuleType], tmp_path: Path, stage: str
) -> None:
    made = job(scripts, tmp_path, stage)
    run = scripts["training_sides"].run_side
    ours = run(made)
    theirs = run(msgspec.structs.replace(made, batch=4))
    assert len(ours.losses) == STEPS
    assert theirs.losses == pytest.approx(ours.losses, abs=1e-4)
    assert theirs.losses[1] != pytest.approx(ours.losses[0], abs=1e-4)  # the step changed something
    assert theirs.targets == ours.targets > 0


def test_a_part_that_is_switched_off_changes_no_loss(
    scripts: dict[str, ModuleType], tmp_path: Path
) -> None:
    made = job(scripts, tmp_path, "instruct")
    run = scripts["training_sides"].run_side
    losses = run(made).losses
    for part in scripts["training_parts"].PARTS:
        without = run(msgspec.structs.replace(made, off=(part,)))
        assert without.losses == pytest.approx(losses, abs=1e-4), part
    recipe = msgspec.structs.replace(made.recipe, feature_cache=str(tmp_path / "features"))
    cached = run(msgspec.structs.replace(made, recipe=recipe))
    assert cached.losses == pytest.approx(losses, abs=1e-4)
    assert cached.filling.images == 15
