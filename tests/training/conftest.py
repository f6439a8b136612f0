"""A recipe over real files that trains in a second: plain images, each named by its colour."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

import laterna.training.run
from laterna.recipe import Recipe, StageName
from laterna.training.throughput import StepFigures

COLOURS = {"red": (230, 20, 20), "blue": (20, 20, 230), "green": (20, 200, 20)}
QUESTION = "<image>\nWhat colour is it?"


class PowerCut(BaseException):
    """Nothing catches it."""


def interrupt(recipe: Recipe, stage: StageName, out: Path, step: int) -> None:
    """Train until a step is done, and die before anything else is."""
    real = laterna.training.run.train_steps

    def dying(*args: Any, **kwargs: Any) -> Iterator[StepFigures]:
        for done in real(*args, **kwargs):
            yield done
            if done.step == step:
                raise PowerCut

    with pytest.MonkeyPatch.context() as patch, pytest.raises(PowerCut):
        patch.setattr(laterna.training.run, "train_steps", dying)
        laterna.training.run.train(recipe, stage=stage, out=out)


@pytest.fixture(scope="session")
def colours() -> dict[str, tuple[int, int, int]]:
    """What the images of `recipe` show."""
    return COLOURS


@pytest.fixture(scope="session")
def question() -> str:
    """What is asked about every image of `recipe`."""
    return QUESTION


@pytest.fixture
def recipe(tiny_recipe: Recipe, tmp_path: Path) -> Recipe:
    """The tiny recipe with 12 plain images, each of one colour that its answer names."""
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
        name: msgspec.structs.replace(tiny_recipe.stage(name), epochs=10, pack_length=64)
        for name in ("align", "instruct")
    }
    stages["instruct"] = msgspec.structs.replace(stages["instruct"], epochs=20)
    stages["align"] = msgspec.structs.replace(stages["align"], template="plain")
    return msgspec.structs.replace(tiny_recipe, **stages)
