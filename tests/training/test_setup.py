from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import save_file

from laterna.errors import LaternaError
from laterna.model.vlm import VisionLanguageModel
from laterna.recipe import Attention, ConnectorSettings, Recipe
from laterna.training import setup
from laterna.training.setup import begin, set_attention


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
    with pytest.raises(LaternaError, match=r"mm_projector\.bin: not read.*than tensors$"):
        begin(tiny_recipe, tmp_path / "mm_projector.bin")  # nor is told how to read it all the same


def test_stage_two_takes_the_folder_that_llavas_stage_one_left(
    tiny_recipe: Recipe, tmp_path: Path
) -> None:
    theirs = mlp_of_llava()
    torch.save(theirs, tmp_path / "mm_projector.bin")
    (tmp_path / "config.json").write_text("{}")
    ours = begin(tiny_recipe, tmp_path).connector.state_dict()
    for one, other in zip(ours.values(), theirs.values(), strict=True):
        assert torch.equal(one, other)
    (tmp_path / "mm_projector.bin").unlink()
    with pytest.raises(LaternaError, match="not a Laterna checkpoint"):
        begin(tiny_recipe, tmp_path)


def test_llavas_layers_are_taken_in_the_order_of_their_numbers(
    tiny_recipe: Recipe, tmp_path: Path
) -> None:
    """By letters 10 would come before 2, and of one shape they would be taken for each other."""
    deep = msgspec.structs.replace(tiny_recipe, connector=ConnectorSettings(kind="mlp", depth=6))
    theirs = {}
    for number in range(6):
        width = 24 if number == 0 else 32
        theirs[f"mm_projector.{2 * number}.bias"] = torch.full((32,), float(number))
        theirs[f"mm_projector.{2 * number}.weight"] = torch.full((32, width), float(number))
    torch.save(theirs, tmp_path / "mm_projector.bin")
    ours = begin(deep, tmp_path / "mm_projector.bin").connector.state_dict()
    found = {name: float(weight.mean()) for name, weight in ours.items()}
    assert found == {
        f"layers.{number}.{kind}": number for number in range(6) for kind in ("weight", "bias")
    }


@pytest.mark.parametrize("how", ["flex", "flash_attention_2"])
def test_attention_for_a_gpu_is_refused_on_a_cpu(
    tiny_assistant: VisionLanguageModel, tiny_recipe: Recipe, how: Attention
) -> None:
    recipe = attending(tiny_recipe, how)
    with pytest.raises(LaternaError, match=f"'{how}': it cannot train on a CPU; use 'sdpa'"):
        set_attention(tiny_assistant, recipe, recipe.instruct)


def test_flash_attention_says_what_it_needs(
    tiny_assistant: VisionLanguageModel, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = torch.device("cuda")
    recipe = attending(tiny_recipe, "flash_attention_2")
    monkeypatch.setattr(setup, "find_spec", lambda _name: None)
    with pytest.raises(LaternaError, match="needs the package flash-attn"):
        set_attention(tiny_assistant, recipe, recipe.instruct, device=gpu)
    monkeypatch.setattr(setup, "find_spec", lambda name: name)
    with pytest.raises(LaternaError, match="set precision = 'bf16'"):
        set_attention(tiny_assistant, recipe, recipe.instruct, device=gpu)
    half = recipe.with_savings("bf16")
    shared = msgspec.structs.replace(half.instruct, shared_prefix=True)
    with pytest.raises(LaternaError, match="takes no mask, which shared_prefix needs"):
        set_attention(tiny_assistant, half, shared, device=gpu)


def attending(recipe: Recipe, how: Attention) -> Recipe:
    run = msgspec.structs.replace(recipe.run, attention=how)
    return msgspec.structs.replace(recipe, run=run)
