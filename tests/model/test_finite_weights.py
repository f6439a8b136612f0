"""Weights from elsewhere that hold NaN or infinities are refused by name, wherever they stand."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace
from safetensors.torch import load_file, save_file
from torch import nn

import laterna
from laterna.errors import LaternaError
from laterna.inference.assistant import Assistant
from laterna.model.build import build_from_recipe
from laterna.model.vlm import VisionLanguageModel
from laterna.model.weight_files import require_finite
from laterna.recipe import LanguageSettings, Recipe, VisionSettings


def spoil(folder: Path, name: str, value: float) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    weights[name].view(-1)[-1] = value
    save_file(weights, path, metadata={"format": "pt"})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("vision", "encoder.layers.1.mlp.fc1.bias"),
        ("language", "model.layers.1.mlp.up_proj.weight"),
    ],
)
def test_a_recipes_part_is_named(
    part: str, name: str, value: float, tiny_models: Path, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    folder = tmp_path / part
    shutil.copytree(tiny_models / part, folder)
    settings = {"vision": VisionSettings, "language": LanguageSettings}[part](source=str(folder))
    recipe = replace(tiny_recipe, **{part: settings})
    build_from_recipe(recipe)
    spoil(folder, name, value)
    said = rf"^{folder}: {name} holds 1 numbers of \d+ that are not finite"
    with pytest.raises(LaternaError, match=said):
        build_from_recipe(recipe)


@pytest.mark.parametrize("part", ["vision", "projector", "language"])
def test_a_foreign_assistants_weight_is_named(
    part: str, tiny_assistant: VisionLanguageModel, tmp_path: Path
) -> None:
    folder = Assistant(tiny_assistant).export(tmp_path / "hf", to="hf")
    laterna.load(folder)
    name = next(name for name in load_file(folder / "model.safetensors") if part in name)
    spoil(folder, name, math.nan)
    with pytest.raises(LaternaError, match=r"hf: \S+ holds 1 numbers of \d+ that are not finite"):
        laterna.load(folder)


def test_large_weights_and_a_mask_are_no_fault() -> None:
    module = nn.Linear(4, 4)
    with torch.no_grad():
        module.weight.fill_(3e38)  # finite, and their sum is not
    module.register_buffer("mask", torch.full((3,), -math.inf))
    require_finite(module, "here")
    module.register_buffer("running_mean", torch.tensor([0.0, math.nan]))
    with pytest.raises(LaternaError, match=r"^here: running_mean holds 1 numbers of 2 that"):
        require_finite(module, "here")
