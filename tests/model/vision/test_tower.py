from __future__ import annotations

import gc
import shutil
import sys
from pathlib import Path

import pytest
import torch
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionModel,
)

from laterna.errors import LaternaError
from laterna.model.vision import load_vision
from laterna.recipe import VisionSettings

from ...tiny import clip_config


def states(folder: Path, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
    model = CLIPVisionModel.from_pretrained(folder).eval()
    with torch.no_grad():
        found: tuple[torch.Tensor, ...] = model(pixels, output_hidden_states=True).hidden_states
    return found


@pytest.mark.parametrize("layer", [-2, -1, 0, 3, -4])
@pytest.mark.parametrize("class_token", [False, True])
def test_features_are_the_hidden_state_asked_for(
    tiny_models: Path, layer: int, class_token: bool
) -> None:
    settings = VisionSettings(
        source=str(tiny_models / "vision"), layer=layer, class_token=class_token
    )
    tower = load_vision(settings)
    pixels = torch.randn(2, 3, 28, 28)
    expected = states(tiny_models / "vision", pixels)[layer]
    expected = expected if class_token else expected[:, 1:]
    torch.testing.assert_close(tower(pixels).detach(), expected, atol=0, rtol=0)
    assert (tower.patches, tower.width) == tuple(expected.shape[1:])


def test_only_the_used_layers_run_and_yet_all_are_saved(tiny_models: Path, tmp_path: Path) -> None:
    tower = load_vision(VisionSettings(source=str(tiny_models / "vision")))
    assert len(tower.model.encoder.layers) == 2
    with torch.no_grad():
        tower.model.encoder.layers[0].mlp.fc1.weight.add_(1.0)
    tower.save(tmp_path)
    before = CLIPVisionModel.from_pretrained(tiny_models / "vision").state_dict()
    after = CLIPVisionModel.from_pretrained(tmp_path).state_dict()
    assert list(before) == list(after)
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed == ["encoder.layers.0.mlp.fc1.weight"]
    pixels = torch.randn(1, 3, 28, 28)
    again = load_vision(VisionSettings(source="unused"), tmp_path)
    assert torch.equal(again(pixels), tower(pixels))


@pytest.mark.skipif(sys.platform != "linux", reason="mappings are told by Linux alone")
def test_a_cast_tower_lets_the_file_of_its_weights_go(tiny_models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tower"
    shutil.copytree(tiny_models / "vision", folder)
    tower = load_vision(VisionSettings(source=str(folder)))
    before = {name: weight.clone() for name, weight in tower.weights().items()}
    maps = Path("/proc/self/maps")
    assert str(folder) in maps.read_text()  # control
    tower.to(torch.bfloat16)
    gc.collect()
    assert str(folder) not in maps.read_text()
    aside = [name for name, weight in tower.weights().items() if weight.dtype == torch.float32]
    assert aside
    assert all(torch.equal(tower.weights()[name], before[name]) for name in aside)


def test_frozen_tower_keeps_no_graph_and_a_trained_one_reaches_every_weight(
    tiny_models: Path,
) -> None:
    tower = load_vision(VisionSettings(source=str(tiny_models / "vision")))
    pixels = torch.randn(1, 3, 28, 28)
    assert not tower.requires_grad_(False)(pixels).requires_grad
    tower.requires_grad_(True)(pixels).sum().backward()
    assert [name for name, weight in tower.named_parameters() if weight.grad is None] == []


def test_the_vision_half_of_a_whole_clip_is_taken(tmp_path: Path) -> None:
    vision = clip_config(8, 8, layers=2)
    text = CLIPTextConfig(
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        vocab_size=9,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    whole = CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict()))
    whole.save_pretrained(tmp_path)
    side = {"height": 28, "width": 28}
    CLIPImageProcessorPil(size=side, crop_size=side).save_pretrained(tmp_path)
    tower = load_vision(VisionSettings(source=str(tmp_path)))
    assert torch.equal(
        tower.model.encoder.layers[0].mlp.fc1.weight,
        whole.vision_model.encoder.layers[0].mlp.fc1.weight,
    )


@pytest.mark.parametrize("layer", [4, -5])
def test_a_layer_that_is_not_there_is_refused(tiny_models: Path, layer: int) -> None:
    with pytest.raises(LaternaError, match="4 hidden states, use -4 to 3"):
        load_vision(VisionSettings(source=str(tiny_models / "vision"), layer=layer))


def test_a_missing_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(LaternaError, match="no-such-folder: no such file or folder"):
        load_vision(VisionSettings(source=str(tmp_path / "no-such-folder")))


def test_a_language_model_is_no_vision_encoder(tiny_models: Path) -> None:
    with pytest.raises(LaternaError, match=r"type llama are not supported; supported .* clip"):
        load_vision(VisionSettings(source=str(tiny_models / "language")))
