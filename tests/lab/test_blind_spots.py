"""Blind spots: probes by value on planted features, cases from the truth, the whole by a fake."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from laterna.errors import LaternaError
from laterna.inference.assistant import Assistant
from laterna.inference.generation import Decoding, Prompt
from laterna.lab.measures.probes import (
    box_pool,
    grid_side,
    image_features,
    mean_max_pool,
    mean_pool,
    probe_accuracy,
)
from laterna.lab.measures.spots import PROPERTIES, blind_spots
from laterna.model.vlm import VisionLanguageModel
from laterna.records import Box, Toy, Truth
from laterna.scenes.phrases import SHORT_ANSWER

TEXTURES = ("smooth", "rough", "striped")


def planted(count: int, strength: float) -> tuple[Tensor, list[str]]:
    """Noise features whose first three dimensions give away one of three labels."""
    generator = torch.Generator().manual_seed(0)
    labels_b = torch.randint(3, (count,), generator=generator)
    features_bd = torch.randn(count, 16, generator=generator)
    features_bd[torch.arange(count), labels_b] += strength
    return features_bd, [TEXTURES[label] for label in labels_b]


def test_the_probe_finds_a_planted_signal() -> None:
    features_bd, labels = planted(400, strength=6.0)
    assert probe_accuracy(features_bd, labels, seed=0) > 0.97
    # Standardised: neither scale nor shift of a feature matters.
    assert probe_accuracy(features_bd * 1000 - 7, labels, seed=0) > 0.97


def test_the_probe_finds_nothing_in_noise_and_in_shuffled_labels() -> None:
    features_bd, labels = planted(1200, strength=0.0)
    assert probe_accuracy(features_bd, labels, seed=0) == pytest.approx(1 / 3, abs=0.07)
    features_bd, labels = planted(1200, strength=6.0)
    order = torch.randperm(1200, generator=torch.Generator().manual_seed(1)).tolist()
    shuffled = [labels[index] for index in order]
    assert probe_accuracy(features_bd, shuffled, seed=0) == pytest.approx(1 / 3, abs=0.07)


def test_the_probe_is_deterministic_and_bears_a_constant_feature() -> None:
    features_bd, labels = planted(100, strength=1.0)
    features_bd[:, 5] = 3.0
    first = probe_accuracy(features_bd, labels, seed=2)
    assert first == probe_accuracy(features_bd, labels, seed=2)
    with torch.no_grad():
        assert first == probe_accuracy(features_bd, labels, seed=2)


def test_pooling_by_value() -> None:
    features_nd = torch.arange(16.0)[:, None]  # a 4×4 grid, numbered row by row
    box = Box(category="dog", x1=0.5, y1=0.0, x2=1.0, y2=0.25)
    assert box_pool(features_nd, box).tolist() == [2.5]
    tall = Box(category="dog", x1=0.0, y1=0.25, x2=0.25, y2=1.0)
    assert box_pool(features_nd, tall).tolist() == [8.0]
    sliver = Box(category="dog", x1=0.95, y1=0.95, x2=1.0, y2=1.0)
    assert box_pool(features_nd, sliver).tolist() == [15.0]
    assert box_pool(features_nd, None).tolist() == [7.5]
    assert mean_pool(features_nd, box).tolist() == [7.5]
    assert mean_max_pool(features_nd, box).tolist() == [7.5, 15.0]


def test_features_must_be_a_square_grid() -> None:
    assert grid_side(64) == 8
    with pytest.raises(LaternaError, match=r"65 features an image.*class_token"):
        grid_side(65)


def truth(index: int) -> Truth:
    """A scene of one toy in the middle; every property follows from the index."""
    box = Box(category="cup", x1=0.25, y1=0.25, x2=0.75, y2=0.75)
    texture = TEXTURES[index % 3]
    sign = ("STOP", "OPEN")[index // 2 % 2] if index % 2 else None
    return Truth(
        id=str(index),
        image=f"{index}.png",
        lighting="dim" if index % 5 < 2 else "bright",
        sign=sign,
        sign_box=Box(category="sign", x1=0.0, y1=0.0, x2=0.25, y2=0.25) if sign else None,
        toys=(Toy(category="cup", colour="red", texture=texture, size="small", box=box),),
    )


def draw(folder: Path, truths: Sequence[Truth]) -> Path:
    """Draw 4×4 images: red tells the texture in the middle, green the light, blue the sign."""
    (folder / "images").mkdir()
    for scene in truths:
        pixels = np.zeros((4, 4, 3), dtype=np.uint8)
        pixels[1:3, 1:3, 0] = 100 * TEXTURES.index(scene.toys[0].texture)
        pixels[:, :, 1] = 200 if scene.lighting == "bright" else 60
        pixels[0, 0, 2] = {"STOP": 250, "OPEN": 120, None: 0}[scene.sign]
        Image.fromarray(pixels).save(folder / "images" / scene.image)
    (folder / "truth.jsonl").write_bytes(b"\n".join(map(msgspec.json.encode, truths)))
    return folder


def see(images: Sequence[Image.Image]) -> Tensor:
    return torch.stack([torch.from_numpy(np.array(image)) for image in images]) / 255


@pytest.fixture
def assistant() -> Assistant:
    """An encoder whose features (b, 16, 3) are the pixels themselves."""
    model = SimpleNamespace(
        prepare=see,
        vision=lambda pixels_bhwc: pixels_bhwc.flatten(1, 2),
        device=torch.device("cpu"),
    )
    return cast(Assistant, SimpleNamespace(model=model))


def always_bright(
    _: VisionLanguageModel, prompts: Sequence[Prompt], decoding: Decoding
) -> list[str]:
    return ["Bright."] * len(prompts)


def test_a_seeing_encoder_and_an_untaught_assistant(tmp_path: Path, assistant: Assistant) -> None:
    dataset = draw(tmp_path, [truth(index) for index in range(240)])
    texture, lighting, sign = blind_spots(
        assistant, dataset, limit=0, seed=0, answer=always_bright, progress=False
    )
    assert [texture.name, lighting.name, sign.name] == ["texture", "lighting", "sign"]
    assert [spot.questions for spot in (texture, lighting, sign)] == [240, 240, 120]
    assert [spot.chance for spot in (texture, lighting, sign)] == pytest.approx([1 / 3, 0.6, 0.5])
    assert [spot.asked for spot in (texture, lighting, sign)] == [0.0, 0.6, 0.0]
    assert [spot.probe for spot in (texture, lighting, sign)] == [1.0, 1.0, 1.0]
    assert texture.shuffled < 0.5
    assert lighting.shuffled < 0.75
    assert sign.shuffled < 0.7


def test_questions_name_the_toy_and_the_choices(tmp_path: Path, assistant: Assistant) -> None:
    asked: set[str] = set()

    def remember(
        _: VisionLanguageModel, prompts: Sequence[Prompt], decoding: Decoding
    ) -> list[str]:
        asked.update(turns[0].text for turns, _ in prompts)
        return [""] * len(prompts)

    dataset = draw(tmp_path, [truth(index) for index in range(48)])
    blind_spots(assistant, dataset, limit=46, seed=0, answer=remember, progress=False)
    assert asked == {
        f"<image>\nIs the cup smooth, rough or striped?{SHORT_ANSWER}",
        f"<image>\nIs the light in the image bright or dim?{SHORT_ANSWER}",
        f"<image>\nWhich word is on the sign?{SHORT_ANSWER}",
    }
    assert set(PROPERTIES) == {"texture", "lighting", "sign"}


def test_too_few_images_are_told(tmp_path: Path, assistant: Assistant) -> None:
    dataset = draw(tmp_path, [truth(index) for index in range(30)])
    with pytest.raises(LaternaError, match="15 of 30 images show a sign, the probe needs 20"):
        blind_spots(assistant, dataset, limit=0, seed=0, answer=always_bright, progress=False)


def test_images_that_are_not_square_are_told(tmp_path: Path, assistant: Assistant) -> None:
    Image.new("RGB", (6, 4)).save(tmp_path / "wide.png")
    with pytest.raises(LaternaError, match=r"wide\.png: not square"):
        image_features(assistant.model, tmp_path, ["wide.png"])


def test_a_real_assistant_is_measured_and_left_as_it_was(
    tmp_path: Path, tiny_assistant: VisionLanguageModel
) -> None:
    dataset = draw(tmp_path, [truth(index) for index in range(60)])
    before = {name: weight.clone() for name, weight in tiny_assistant.state_dict().items()}
    spots = blind_spots(Assistant(tiny_assistant), dataset, limit=0, seed=0, progress=False)
    assert [(spot.name, spot.questions) for spot in spots] == [
        ("texture", 60),
        ("lighting", 60),
        ("sign", 30),
    ]
    assert all(0 <= spot.probe <= 1 and 0 <= spot.shuffled <= 1 for spot in spots)
    # Even a random encoder tells light from dark.
    assert spots[1].probe > 0.9
    after = tiny_assistant.state_dict()
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())
