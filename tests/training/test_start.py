from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import save_file

from laterna.errors import LaternaError
from laterna.recipe import ConnectorSettings, Recipe
from laterna.training.start import begin


def mlp_of_llava() -> dict[str, torch.Tensor]:
    return {
        "model.mm_projector.0.weight": torch.randn(32, 24),
        "model.mm_projector.0.bias": torch.randn(32),
        "model.mm_projector.2.weight": torch.randn(32, 32),
        "model.mm_projector.2.bias": torch.randn(32),
    }


def test_stage_two_takes_llavas_projector(tiny_recipe: Recipe, tmp_path: Path) -> None:
    theirs = mlp_of_llava()
    torch.save(theirs, tmp_path / "mm_projector.bin")
    assistant = begin(tiny_recipe, tmp_path / "mm_projector.bin")
    ours = assistant.connector.state_dict()
    assert list(ours) == [
        "layers.0.weight",
        "layers.0.bias",
        "layers.1.weight",
        "layers.1.bias",
    ]
    for one, other in zip(ours.values(), theirs.values(), strict=True):
        assert torch.equal(one, other)
    linear = msgspec.structs.replace(tiny_recipe, connector=ConnectorSettings(kind="linear"))
    with pytest.raises(LaternaError, match=r"mm_projector\.bin: does not fit .*project\.weight"):
        begin(linear, tmp_path / "mm_projector.bin")
    torch.save(
        {"mm_projector.weight": torch.ones(32, 24), "mm_projector.bias": torch.zeros(32)},
        tmp_path / "linear.bin",
    )
    taken = begin(linear, tmp_path / "linear.bin").connector.state_dict()
    assert torch.equal(taken["project.weight"], torch.ones(32, 24))


def test_stage_two_takes_a_connector_of_ours(tiny_recipe: Recipe, tmp_path: Path) -> None:
    weights = {
        name: torch.full_like(weight, 0.5)
        for name, weight in begin(tiny_recipe, None).connector.state_dict().items()
    }
    save_file(weights, tmp_path / "connector.safetensors")
    taken = begin(tiny_recipe, tmp_path / "connector.safetensors").connector.state_dict()
    assert all(torch.equal(taken[name], weights[name]) for name in weights)


def test_a_pickle_of_more_than_tensors_is_refused(tiny_recipe: Recipe, tmp_path: Path) -> None:
    torch.save({"model.mm_projector.weight": Path("here")}, tmp_path / "mm_projector.bin")
    with pytest.raises(LaternaError, match=r"mm_projector\.bin"):
        begin(tiny_recipe, tmp_path / "mm_projector.bin")
