"""timm's encoders: their features are timm's own maps, and what is saved is read by timm again.

Where timm or its torchvision does not import, none of it runs; `test_timm_missing` does then.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from laterna.data.images.fitting import ImagePreparer
from laterna.errors import LaternaError
from laterna.model.vision import VisionTower, load_vision
from laterna.model.vision.tower import blank_vision
from laterna.recipe import VisionSettings

try:
    import timm
    from timm.data import create_transform
    from timm.models import save_for_hf
except (ImportError, RuntimeError, OSError) as error:  # torchvision fails in each of these ways
    pytest.skip(f"timm does not import here: {error}", allow_module_level=True)

from transformers import TimmWrapperConfig, TimmWrapperModel


class Case(NamedTuple):
    """A small model of timm: its arguments, its side, and the tokens before its patches."""

    architecture: str
    arguments: dict[str, Any]
    side: int
    leading: int = 0


VIT = {"embed_dim": 24, "depth": 3, "num_heads": 2}
SWIN = {"embed_dim": 12, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 3, 4), "window_size": 2}
CASES = {
    "vit": Case(
        "vit_tiny_patch16_224", {**VIT, "img_size": 32, "patch_size": 8, "reg_tokens": 2}, 32, 3
    ),
    "siglip": Case("vit_base_patch16_siglip_224", {**VIT, "img_size": 32}, 32),
    "eva": Case("eva02_tiny_patch14_224", {**VIT, "img_size": 28, "patch_size": 7}, 28, 1),
    "swin": Case("swin_tiny_patch4_window7_224", {**SWIN, "img_size": 32}, 32),
    "resnet": Case("test_resnet", {}, 64),
    "convnext": Case("test_convnext", {}, 64),
    "efficientnet": Case("test_efficientnet", {}, 64),
    "mobilenet": Case("mobilenetv3_small_050", {}, 64),
}
EVERY = pytest.mark.parametrize("name", CASES)
FIRST = {"vit": "blocks", "siglip": "blocks", "eva": "blocks", "swin": "layers"}
FIRST |= {"resnet": "layer", "convnext": "stages", "efficientnet": "blocks"}
FIRST |= {"mobilenet": "blocks"}
"""How the names of a model's layers begin."""


def network(name: str) -> Any:
    """timm's model with a classifier of 5 classes and weights of which each shows."""
    case = CASES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        net = timm.create_model(case.architecture, num_classes=5, **case.arguments)
        for weight in net.parameters():
            if weight.ndim == 1:  # layer scales begin so small that their branches do not show
                torch.nn.init.normal_(weight, mean=0.5, std=0.3)
        for key, buffer in net.named_buffers():
            if key.endswith("running_mean"):
                buffer.normal_()
    return net.eval()


def own_folder(name: str, folder: Path) -> Path:
    """A folder in timm's own form, as its models lie on the hub: no `model_type`."""
    case, net = CASES[name], network(name)
    stated = {**net.pretrained_cfg, "input_size": (3, case.side, case.side)}
    stated |= {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.5)}
    save_for_hf(
        net, str(folder), {"pretrained_cfg": stated}, case.arguments, safe_serialization=True
    )
    assert "model_type" not in json.loads((folder / "config.json").read_bytes())
    return folder


def tower_of(name: str, folder: Path, layer: int = -1, **settings: Any) -> VisionTower:
    source = str(own_folder(name, folder / "timm"))
    return load_vision(VisionSettings(source=source, layer=layer, **settings))


def pixels_for(name: str) -> Tensor:
    side = CASES[name].side
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(2))


def maps(name: str, pixels: Tensor) -> list[Tensor]:
    with torch.no_grad():
        found: list[Tensor] = network(name).forward_intermediates(pixels, intermediates_only=True)
    return found


@EVERY
@pytest.mark.parametrize("layer", [-1, -2, -3])
def test_features_equal_timms_maps(name: str, layer: int, tmp_path: Path) -> None:
    pixels = pixels_for(name)
    expected = maps(name, pixels)[layer].flatten(2).transpose(1, 2)
    tower = tower_of(name, tmp_path, layer)
    torch.testing.assert_close(tower(pixels).detach(), expected, atol=1e-5, rtol=0)
    assert (tower.patches, tower.width) == tuple(expected.shape[1:])
    assert expected.std() > 1e-2


@pytest.mark.parametrize("name", ["vit", "siglip", "eva"])
def test_with_the_closing_norm_they_are_timms_forward_features(name: str, tmp_path: Path) -> None:
    pixels = pixels_for(name)
    with torch.no_grad():
        expected = network(name).forward_features(pixels)
    raw = maps(name, pixels)[-1].flatten(2).transpose(1, 2)
    if name == "eva":  # averages before it norms: its closing norm is of the pooled vector
        with pytest.raises(LaternaError, match=r"final_norm = true: timm's eva02_tiny\w+ has no"):
            tower_of(name, tmp_path, final_norm=True)
        torch.testing.assert_close(raw, expected[:, CASES[name].leading :], atol=1e-5, rtol=0)
        return
    found = tower_of(name, tmp_path, final_norm=True)(pixels).detach()
    torch.testing.assert_close(found, expected[:, CASES[name].leading :], atol=1e-5, rtol=0)
    assert not torch.allclose(raw, found, atol=1e-2)


@pytest.mark.parametrize("name", ["resnet", "convnext"])
def test_the_last_map_of_a_backbone_is_its_forward_features(name: str, tmp_path: Path) -> None:
    pixels = pixels_for(name)
    with torch.no_grad():
        expected = network(name).forward_features(pixels).flatten(2).transpose(1, 2)
    found = tower_of(name, tmp_path)(pixels).detach()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["vit", "eva"])
def test_the_class_token_is_kept_when_asked_and_registers_never_are(
    name: str, tmp_path: Path
) -> None:
    pixels = pixels_for(name)
    with torch.no_grad():
        both = network(name).forward_intermediates(
            pixels, intermediates_only=True, return_prefix_tokens=True, output_fmt="NLC"
        )
    patches, leading = both[-2]
    assert leading.shape[1] == CASES[name].leading
    tower = tower_of(name, tmp_path, -2, class_token=True)
    expected = torch.cat([leading[:, :1], patches], dim=1)
    torch.testing.assert_close(tower(pixels).detach(), expected, atol=1e-5, rtol=0)
    assert tower.patches == 17


@EVERY
def test_sizes_are_known_without_weights(name: str, tmp_path: Path) -> None:
    source = str(own_folder(name, tmp_path))
    (tmp_path / "model.safetensors").unlink()
    with torch.device("meta"):
        tower = blank_vision(VisionSettings(source=source))
    assert all(weight.is_meta for weight in tower.parameters())
    expected = maps(name, pixels_for(name))[-2]
    assert (tower.width, tower.patches) == (expected.shape[1], expected[0, 0].numel())


@pytest.mark.parametrize(
    ("name", "layer", "patches"),
    # 80, 40, 20, 10, 5, 3: padded convolutions round up; 80, 20, 10, 5, 2: others round down
    [("resnet", -1, 9), ("resnet", -2, 25), ("efficientnet", -1, 9), ("convnext", -1, 4)],
)
def test_backbones_take_other_sizes(name: str, layer: int, patches: int, tmp_path: Path) -> None:
    tower = tower_of(name, tmp_path, layer, image_size=80)
    pixels = ImagePreparer(tower.processor, "pad")([Image.new("RGB", (30, 50), "teal")])
    assert pixels.shape == (1, 3, 80, 80)
    assert tower(pixels).shape == (1, patches, tower.width) == (1, tower.patches, tower.width)


@EVERY
def test_what_does_not_run_is_saved_and_timm_reads_it(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    tower = tower_of(name, tmp_path, -2)
    before = network(name).state_dict()
    assert len(tower.model.state_dict()) < len(before)
    with torch.no_grad():
        next(iter(tower.last_layers(1)[0].parameters())).add_(1.0)
    tower.save(tmp_path / "again")
    pixels = pixels_for(name)
    again = load_vision(VisionSettings(source="unused"), tmp_path / "again")
    # Not bit for bit: weights that lie otherwise in their file are multiplied in another order.
    torch.testing.assert_close(again(pixels), tower(pixels), atol=1e-4, rtol=1e-4)
    assert again.processor.to_dict() == tower.processor.to_dict()
    net = timm.create_model(f"local-dir:{tmp_path / 'again'}", pretrained=True, num_classes=0)
    after = net.state_dict()
    changed = [key for key, weight in after.items() if not torch.equal(weight, before[key])]
    assert len(changed) == 1
    assert changed[0].startswith(FIRST[name])
    with torch.no_grad():
        found = net.eval().forward_intermediates(pixels, intermediates_only=True)[-2]
    torch.testing.assert_close(
        found.flatten(2).transpose(1, 2), tower(pixels).detach(), atol=1e-4, rtol=1e-4
    )
    assert case.side == ImagePreparer(again.processor, "pad").size


def test_a_folder_in_transformers_form_is_read(tmp_path: Path) -> None:
    case = CASES["vit"]
    stated = {"input_size": (3, case.side, case.side), "mean": (0.1,) * 3, "std": (0.5,) * 3}
    config = TimmWrapperConfig(
        architecture=case.architecture, model_args=case.arguments, pretrained_cfg=stated
    )
    whole = TimmWrapperModel(config).eval()
    whole.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_bytes())["model_type"] == "timm_wrapper"
    tower = load_vision(VisionSettings(source=str(tmp_path), layer=-1, final_norm=True))
    pixels = pixels_for("vit")
    with torch.no_grad():
        expected = whole(pixels).last_hidden_state[:, case.leading :]
    torch.testing.assert_close(tower(pixels).detach(), expected, atol=1e-5, rtol=0)
    assert tuple(tower.processor.image_mean) == (0.1,) * 3


@EVERY
@pytest.mark.parametrize("layer", [-1, -2])
def test_training_reaches_every_weight_that_runs(name: str, layer: int, tmp_path: Path) -> None:
    tower = tower_of(name, tmp_path, layer)
    pixels = pixels_for(name)
    assert not tower.requires_grad_(False)(pixels).requires_grad
    tower.requires_grad_(True).train()
    tower(pixels).square().sum().backward()
    assert [key for key, weight in tower.named_parameters() if weight.grad is None] == []


LAST = {
    "vit": [("blocks.1.",), ("blocks.0.", "blocks.1.")],
    "siglip": [("blocks.1.",), ("blocks.0.", "blocks.1.")],
    "eva": [("blocks.1.",), ("blocks.0.", "blocks.1.")],
    "swin": [("layers.2.",), ("layers.1.", "layers.2.")],
    "resnet": [("layer3.",), ("layer2.", "layer3.")],
    "convnext": [("stages.2.",), ("stages.1.", "stages.2.")],
    "efficientnet": [("blocks.3.",), ("blocks.2.", "blocks.3.")],
    "mobilenet": [("blocks.3.",), ("blocks.2.", "blocks.3.")],
}
"""For layer -2, the weights of the last layer and of the last two, by how their names begin."""


@EVERY
@pytest.mark.parametrize("n", [1, 2])
def test_exactly_the_last_layers_train(name: str, n: int, tmp_path: Path) -> None:
    tower = tower_of(name, tmp_path, -2).requires_grad_(False)
    for module in tower.last_layers(n):
        module.requires_grad_(True)
    tower.train()(pixels_for(name)).square().sum().backward()
    begins = tuple(f"model.timm_model.{part}" for part in LAST[name][n - 1])
    reached = [key for key, weight in tower.named_parameters() if weight.grad is not None]
    assert reached == [key for key, _ in tower.named_parameters() if key.startswith(begins)]
    assert reached
    assert not tower.model.get_submodule(tower._cut.layers[0][0]).training or n == 2


def test_the_closing_norm_trains_with_the_last_block(tmp_path: Path) -> None:
    tower = tower_of("vit", tmp_path, -1, final_norm=True)
    names = {id(weight): key for key, weight in tower.named_parameters()}
    trained = {names[id(weight)] for part in tower.last_layers(1) for weight in part.parameters()}
    begins = ("model.timm_model.blocks.2.", "model.timm_model.norm.")
    assert trained == {key for key in names.values() if key.startswith(begins)}
    assert "model.timm_model.norm.weight" in trained


def test_frozen_batch_norms_keep_their_statistics(tmp_path: Path) -> None:
    tower = tower_of("resnet", tmp_path).requires_grad_(False)
    before = {key: buffer.clone() for key, buffer in tower.named_buffers()}
    tower.train()(pixels_for("resnet"))
    assert all(torch.equal(buffer, before[key]) for key, buffer in tower.named_buffers())
    tower.requires_grad_(True).train()(pixels_for("resnet"))
    assert any(not torch.equal(buffer, before[key]) for key, buffer in tower.named_buffers())


@pytest.mark.parametrize("larger", [1, 3])
def test_images_are_prepared_as_timm_prepares_squares(larger: int, tmp_path: Path) -> None:
    tower = tower_of("vit", tmp_path)
    side = 32 * larger
    levels = np.random.default_rng(3).integers(0, 256, (side, side, 3), dtype=np.uint8)
    image = Image.fromarray(levels)
    theirs = create_transform(
        (3, 32, 32),
        interpolation=network("vit").pretrained_cfg["interpolation"],
        mean=(0.4, 0.5, 0.6),
        std=(0.2, 0.3, 0.5),
        crop_pct=1.0,  # Laterna squares images itself, and cuts nothing off a square
    )
    for fit in ("pad", "resize", "crop"):
        ours = ImagePreparer(tower.processor, fit)([image])
        torch.testing.assert_close(ours[0], theirs(image), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("vit", {"layer": 0}, r"layer = 0: timm's vit_tiny\w+ gives 3 .* use -1 to -3"),
        ("vit", {"layer": -4}, r"layer = -4: timm's vit_tiny\w+ gives 3 .* use -1 to -3"),
        ("resnet", {"layer": -6}, "test_resnet gives 5 feature maps"),
        ("siglip", {"class_token": True}, r"class_token = true: .*siglip_224 gives no class"),
        ("resnet", {"class_token": True}, "class_token = true: timm's test_resnet gives no class"),
        ("resnet", {"final_norm": True}, "final_norm = true: timm's test_resnet has no closing"),
        ("swin", {"final_norm": True}, r"final_norm = true: timm's swin\w+ has no closing norm"),
        ("vit", {"image_size": 64}, r"does not give features of images of 64×64 pixels: .*32"),
    ],
)
def test_what_a_model_does_not_give_is_refused(
    name: str, settings: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(LaternaError, match=said):
        tower_of(name, tmp_path, **settings)


def test_more_last_layers_than_run_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LaternaError, match=r"it runs 2 for vision\.layer = -2, use 1 to 2"):
        tower_of("vit", tmp_path, -2).last_layers(3)


def test_layers_that_timm_does_not_group_do_not_train_alone(tmp_path: Path) -> None:
    net = timm.create_model("pit_ti_224", num_classes=0)
    save_for_hf(net, str(tmp_path), safe_serialization=True)
    tower = load_vision(VisionSettings(source=str(tmp_path), layer=-1))
    assert (tower.patches, tower.width) == (49, 256)
    with pytest.raises(LaternaError, match=r"none that can be told apart; use `full` or `frozen`"):
        tower.last_layers(1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pretrained_cfg": {}}, "config.json has no `pretrained_cfg`"),
        ({"pretrained_cfg": {"input_size": [3, 32, 64]}}, "images of 32×64, not square"),
        ({"architecture": "vit_of_tomorrow"}, "'vit_of_tomorrow' is not supported in your version"),
        ({"model_args": {"features_only": True}}, "saved with `features_only`"),
    ],
)
def test_a_config_that_does_not_do_is_named(
    change: dict[str, Any], said: str, tmp_path: Path
) -> None:
    source = own_folder("vit", tmp_path)
    stated = json.loads((source / "config.json").read_bytes())
    stated |= {"model_type": "timm_wrapper", **change}
    (source / "config.json").write_text(json.dumps(stated))
    if "features_only" in change.get("model_args", {}):
        with torch.device("meta"), pytest.raises(LaternaError, match=said):
            blank_vision(VisionSettings(source=str(source)))
        return
    with pytest.raises(LaternaError, match=said):
        load_vision(VisionSettings(source=str(source)))
