"""What two ranks are given: rank 0's weights layer by layer, and never the whole on the others."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import torch

import laterna
from laterna.model.vlm import VisionLanguageModel
from laterna.recipe import LoraSettings, PartSettings, Recipe
from laterna.training.parallel import without_weights
from laterna.training.stages import apply_stage

CPU = torch.device("cpu")


def test_a_model_without_weights_travels_and_shares_nothing(
    tiny_assistant: VisionLanguageModel,
) -> None:
    before = {name: one.clone() for name, one in tiny_assistant.state_dict().items()}
    assert tiny_assistant.plain_head
    hollow = without_weights(tiny_assistant, tiny_assistant.language)
    sent = pickle.loads(pickle.dumps(hollow))
    assert {one.device.type for one in sent.language.parameters()} == {"meta"}
    assert {one.device.type for one in sent.language.buffers()} == {"meta"}
    assert "plain_head" in vars(sent)
    whole, shapes = (
        {name: tuple(one.shape) for name, one in model.named_parameters()}
        for model in (tiny_assistant, sent)
    )
    assert whole == shapes
    for name, weight in tiny_assistant.state_dict().items():
        assert torch.equal(weight, before[name])
    assert torch.equal(
        sent.connector.state_dict()["layers.0.weight"], before["connector.layers.0.weight"]
    )


def test_adapters_travel_too(tiny_assistant: VisionLanguageModel, tiny_recipe: Recipe) -> None:
    """As a stage has them that goes on from a checkpoint with adapters."""
    adapted = msgspec.structs.replace(
        tiny_recipe.instruct, language=PartSettings(mode="lora", lr=1e-3)
    )
    recipe = msgspec.structs.replace(tiny_recipe, instruct=adapted, lora=LoraSettings(r=4, alpha=8))
    summary = apply_stage(tiny_assistant, recipe, "instruct")
    hollow = without_weights(tiny_assistant, tiny_assistant.language)
    sent = pickle.loads(pickle.dumps(hollow))
    assert apply_stage(sent, recipe, "instruct") == summary


@pytest.mark.slow
@pytest.mark.parametrize("in_half", [False, True])
def test_weights_come_from_rank_0_and_lie_in_halves(
    tiny_recipe: Recipe, tmp_path: Path, in_half: bool
) -> None:
    path = tmp_path / "recipe.json"
    path.write_bytes(msgspec.json.encode(tiny_recipe))
    script = str(Path(__file__).with_name("two_ranks.py"))
    source = os.environ | {"PYTHONPATH": str(Path(laterna.__file__).parents[1])}
    command = [sys.executable, script, str(path), str(tmp_path)]
    more = ["bf16"] if in_half else []
    both = [subprocess.Popen([*command, rank, *more], env=source) for rank in ("0", "1")]
    assert [one.wait(timeout=300) for one in both] == [0, 0]
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert first[0] == []
    names = set(first[1])
    assert set(second[0]) == {name for name in names if name.startswith("language.")}
    expected = first[2]
    for name in names:
        (shared, here, dtype, whole), (_, there, _, other) = first[1][name], second[1][name]
        assert torch.equal(whole, expected[name])
        assert torch.equal(other, expected[name])
        assert dtype == torch.float32, "what trains is held in 32 bits, whatever is gathered"
        assert shared is not name.startswith("vision."), "which does not train, and stays whole"
        if shared:
            assert here + there == whole.numel()
    errors = [(tmp_path / f"{rank}.txt").read_text() for rank in (0, 1)]
    assert errors == ["no such model", "no such model"]
