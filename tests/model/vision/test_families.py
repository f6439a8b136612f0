"""Every family: its features are transformers' own hidden states, and saving loses nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    CLIPConfig,
    CLIPModel,
    CLIPVisionModel,
    OPTConfig,
    Siglip2VisionConfig,
    SiglipConfig,
    SiglipModel,
)

from laterna.data.images.fitting import ImagePreparer
from laterna.errors import LaternaError
from laterna.model.vision import FAMILIES, VisionTower, load_vision
from laterna.recipe import VisionSettings

from .conftest import BACKBONES, TRANSFORMER, TRANSFORMERS, Case

LARGE = {"hidden_size": 1024, "num_attention_heads": 16, "patch_size": 14}
EVERY = pytest.mark.parametrize("case", TRANSFORMERS + BACKBONES, indirect=True)


def features(case: Case, pixels: torch.Tensor, layer: int) -> torch.Tensor:
    """What transformers itself gives, with everything but the patches dropped."""
    with torch.no_grad():
        state = case.model(pixels, output_hidden_states=True).hidden_states[layer]
    return state.flatten(2).transpose(1, 2) if state.ndim == 4 else state[:, case.leading :]


def saved(case: Case, folder: Path) -> Path:
    case.model.save_pretrained(folder)
    case.processor.save_pretrained(folder)
    return folder


def pixels_for(case: Case) -> torch.Tensor:
    side = ImagePreparer(case.processor, "resize").size
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(2))


@EVERY
@pytest.mark.parametrize("layer", [-1, -2, 0])
def test_features_equal_transformers(case: Case, layer: int, tmp_path: Path) -> None:
    pixels = pixels_for(case)
    expected = features(case, pixels, layer)
    tower = load_vision(VisionSettings(source=str(saved(case, tmp_path)), layer=layer))
    torch.testing.assert_close(tower(pixels).detach(), expected, atol=1e-5, rtol=0)
    assert (tower.patches, tower.width) == tuple(expected.shape[1:])
    assert expected.std() > 1e-3


@EVERY
def test_unused_layers_do_not_run_and_are_saved(case: Case, tmp_path: Path) -> None:
    before = {name: weight.clone() for name, weight in case.model.state_dict().items()}
    source = saved(case, tmp_path / "source")
    tower = load_vision(VisionSettings(source=str(source)))
    assert (
        len(tower.model.get_submodule(case.blocks))
        == len(case.model.get_submodule(case.blocks)) - 1
    )
    assert len(tower.model.state_dict()) < len(before)
    tower.save(tmp_path / "again")
    read = type(case.model).from_pretrained(tmp_path / "again")
    after = read.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    pixels = pixels_for(case)
    again = load_vision(VisionSettings(source="unused"), tmp_path / "again")
    assert torch.equal(again(pixels), tower(pixels))


@EVERY
def test_training_reaches_every_weight_that_runs(case: Case) -> None:
    tower = VisionTower(case.model, case.processor, layer=-2)
    pixels = pixels_for(case)
    assert not tower.requires_grad_(False)(pixels).requires_grad
    tower.requires_grad_(True).train()
    tower(pixels).square().sum().backward()
    assert [name for name, weight in tower.named_parameters() if weight.grad is None] == []


@EVERY
def test_sizes_are_known_on_the_meta_device(case: Case) -> None:
    with torch.device("meta"):
        model = type(case.model)(case.model.config)
    tower = VisionTower(model, case.processor, layer=-2)
    assert all(weight.is_meta for weight in tower.parameters())
    shape = tower(pixels_for(case).to("meta")).shape
    assert tuple(shape[1:]) == (tower.patches, tower.width)


@EVERY
def test_a_image_of_any_shape_is_prepared(case: Case) -> None:
    tower = VisionTower(case.model, case.processor, layer=-2)
    levels = np.random.default_rng(3).integers(0, 255, (40, 70, 3), dtype=np.uint8)
    pixels = ImagePreparer(tower.processor, "pad")([Image.fromarray(levels)])
    assert tower(pixels).shape == (1, tower.patches, tower.width)


@pytest.mark.parametrize("case", [name for name in TRANSFORMERS if name != "clip"], indirect=True)
@pytest.mark.parametrize("layer", [-1, -2])
def test_the_closing_norm_is_put_on_when_asked(case: Case, layer: int) -> None:
    pixels = pixels_for(case)
    norm = getattr(case.model, "post_layernorm", None) or case.model.layernorm
    torch.nn.init.normal_(norm.weight)
    with torch.no_grad():
        whole = case.model(pixels, output_hidden_states=True)
        expected = norm(whole.hidden_states[layer])
    if layer == -1:
        torch.testing.assert_close(whole.last_hidden_state, expected)
    tower = VisionTower(case.model, case.processor, layer=layer, final_norm=True)
    found = tower(pixels).detach()
    torch.testing.assert_close(found, expected[:, case.leading :], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "case", ["clip", "blip2", "dinov2", "dinov2_with_registers"], indirect=True
)
def test_the_class_token_is_kept_when_asked_and_registers_never_are(case: Case) -> None:
    pixels = pixels_for(case)
    with torch.no_grad():
        state = case.model(pixels, output_hidden_states=True).hidden_states[-1]
    tower = VisionTower(case.model, case.processor, layer=-1, class_token=True)
    expected = torch.cat([state[:, :1], state[:, case.leading :]], dim=1)
    torch.testing.assert_close(tower(pixels).detach(), expected, atol=1e-5, rtol=0)
    assert tower.patches == 5


@pytest.mark.parametrize("case", ["siglip", *BACKBONES], indirect=True)
def test_a_class_token_that_is_not_there_is_refused(case: Case) -> None:
    with pytest.raises(LaternaError, match="class_token = true: this encoder has no class token"):
        VisionTower(case.model, case.processor, layer=-1, class_token=True)


@pytest.mark.parametrize("case", ["clip", *BACKBONES], indirect=True)
def test_a_closing_norm_that_is_not_there_is_refused(case: Case) -> None:
    with pytest.raises(LaternaError, match="final_norm = true: this encoder has no final"):
        VisionTower(case.model, case.processor, layer=-1, final_norm=True)


@EVERY
def test_the_last_layers_train_and_the_others_keep_no_graph(case: Case) -> None:
    tower = VisionTower(case.model, case.processor, layer=-1)
    tower.requires_grad_(False)
    for module in tower.last_layers(1):
        module.requires_grad_(True)
    tower.train()
    blocks = tower.model.get_submodule(case.blocks)
    inputs: list[torch.Tensor] = []
    blocks[-1].register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    tower(pixels_for(case)).square().sum().backward()
    assert [state.requires_grad for state in inputs] == [False]
    reached = [name for name, weight in tower.named_parameters() if weight.grad is not None]
    place = f"model.{case.blocks}.{len(blocks) - 1}."
    assert reached == [name for name, _ in tower.named_parameters() if name.startswith(place)]
    assert reached
    assert blocks[-1].training
    assert not blocks[0].training


@pytest.mark.parametrize("case", ["siglip"], indirect=True)
@pytest.mark.parametrize("n", [0, 2])
def test_more_last_layers_than_run_are_refused(case: Case, n: int) -> None:
    tower = VisionTower(case.model, case.processor, layer=-2)
    with pytest.raises(LaternaError, match=r"it runs 1 for vision\.layer = -2, use 1 to 1"):
        tower.last_layers(n)


@pytest.mark.parametrize("case", ["resnet"], indirect=True)
def test_frozen_batch_norms_keep_their_statistics(case: Case) -> None:
    tower = VisionTower(case.model, case.processor, layer=-1).requires_grad_(False)
    before = {name: buffer.clone() for name, buffer in tower.named_buffers()}
    tower.train()(pixels_for(case))
    assert all(torch.equal(buffer, before[name]) for name, buffer in tower.named_buffers())
    tower.requires_grad_(True).train()(pixels_for(case))
    assert any(not torch.equal(buffer, before[name]) for name, buffer in tower.named_buffers())


@pytest.mark.parametrize("case", ["dinov2", "resnet", "convnext"], indirect=True)
def test_images_of_another_size_where_the_encoder_takes_any(case: Case, tmp_path: Path) -> None:
    settings = VisionSettings(source=str(saved(case, tmp_path)), layer=-1, image_size=84)
    tower = load_vision(settings)
    pixels = ImagePreparer(tower.processor, "pad")([Image.new("RGB", (30, 50), "teal")])
    assert pixels.shape == (1, 3, 84, 84)
    assert tower(pixels).shape == (1, tower.patches, tower.width)
    torch.testing.assert_close(
        tower(pixels).detach(), features(case, pixels, -1), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("case", ["clip", "siglip"], indirect=True)
def test_images_of_another_size_are_refused_where_positions_are_fixed(
    case: Case, tmp_path: Path
) -> None:
    settings = VisionSettings(source=str(saved(case, tmp_path)), image_size=56)
    with pytest.raises(LaternaError, match="56×56 pixels, but this encoder reads 28×28"):
        load_vision(settings)


@pytest.mark.parametrize("case", ["dinov2"], indirect=True)
def test_images_of_broken_patches_are_refused(case: Case, tmp_path: Path) -> None:
    settings = VisionSettings(source=str(saved(case, tmp_path)), image_size=30)
    with pytest.raises(LaternaError, match="30×30 pixels are not a multiple of the patch size 14"):
        load_vision(settings)


def test_the_vision_half_of_a_whole_siglip_and_a_whole_blip2_is_taken(tmp_path: Path) -> None:
    vision = {**TRANSFORMER, "intermediate_size": 48}
    text = {"hidden_size": 24, "intermediate_size": 8, "num_hidden_layers": 1}
    text |= {"num_attention_heads": 2, "vocab_size": 9}
    siglip = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
    siglip.save_pretrained(tmp_path / "siglip")
    FAMILIES["siglip"].processor(size={"height": 28, "width": 28}).save_pretrained(
        tmp_path / "siglip"
    )
    blip = Blip2ForConditionalGeneration(
        Blip2Config(
            vision_config=vision,
            qformer_config={
                "hidden_size": 16,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "intermediate_size": 8,
                "encoder_hidden_size": 24,
            },
            text_config=OPTConfig(
                vocab_size=9,
                hidden_size=16,
                ffn_dim=8,
                num_hidden_layers=1,
                num_attention_heads=2,
                word_embed_proj_dim=16,
            ).to_dict(),
        )
    )
    blip.save_pretrained(tmp_path / "blip", max_shard_size="30KB")
    index = json.loads((tmp_path / "blip" / "model.safetensors.index.json").read_bytes())
    places = index["weight_map"]
    seen = {file for name, file in places.items() if name.startswith("vision_model.")}
    others = set(places.values()) - seen
    assert others
    for file in others:  # neither needed nor looked at
        (tmp_path / "blip" / file).unlink()
    FAMILIES["blip-2"].processor(size={"height": 28, "width": 28}).save_pretrained(
        tmp_path / "blip"
    )
    for whole, folder in ((siglip, tmp_path / "siglip"), (blip, tmp_path / "blip")):
        for pickled in (False, True):
            if pickled:
                for path in folder.glob("model*.safetensors*"):
                    path.unlink()
                torch.save(whole.state_dict(), folder / "pytorch_model.bin")
            weights = load_vision(VisionSettings(source=str(folder), layer=-1)).weights()
            for name, weight in whole.vision_model.state_dict().items():
                assert torch.equal(weights[name], weight)


@pytest.mark.parametrize("part", [CLIPModel, CLIPVisionModel])
def test_clip_is_read_from_a_pickle_as_openai_published_it(part: Any, tmp_path: Path) -> None:
    vision = {**TRANSFORMER, "intermediate_size": 48}
    text = {"hidden_size": 24, "intermediate_size": 8, "num_hidden_layers": 1}
    text |= {"num_attention_heads": 2, "vocab_size": 9}
    whole = CLIPConfig(text_config=text, vision_config=vision)
    model = part(whole if part is CLIPModel else whole.vision_config)
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    size = {"height": 28, "width": 28}
    FAMILIES["clip"].processor(size=size, crop_size=size).save_pretrained(tmp_path)
    weights = load_vision(VisionSettings(source=str(tmp_path))).weights()
    own = {
        name.removeprefix("vision_model."): weight
        for name, weight in model.state_dict().items()
        if not name.startswith(("text_", "visual_", "logit_"))
    }
    assert weights and weights.keys() <= own.keys()
    assert all(torch.equal(weight, own[name]) for name, weight in weights.items())


def test_naflex_is_refused_with_the_reason(tmp_path: Path) -> None:
    Siglip2VisionConfig().save_pretrained(tmp_path)
    with pytest.raises(LaternaError, match=r"type siglip2_vision_model .*NaFlex.*fixed size"):
        load_vision(VisionSettings(source=str(tmp_path)))


@pytest.mark.parametrize(
    ("name", "config", "side", "patches", "width"),
    [
        ("clip", {**LARGE, "image_size": 224}, 224, 256, 1024),
        ("clip", {**LARGE, "image_size": 336}, 336, 576, 1024),
        ("siglip", {**LARGE, "hidden_size": 1152, "image_size": 384}, 384, 729, 1152),
        ("dinov2", {**LARGE, "image_size": 518}, 224, 256, 1024),
        ("resnet", {}, 224, 49, 2048),
        ("convnext", {}, 224, 49, 768),
    ],
)
def test_published_sizes(
    name: str, config: dict[str, int], side: int, patches: int, width: int
) -> None:
    family = FAMILIES[name]
    settings = family.model.config_class(**config)
    depth = len(settings.hidden_sizes) if hasattr(settings, "hidden_sizes") else 23
    shape = family.geometry(settings, depth, side)
    assert (shape.grid**2, shape.width) == (patches, width)
