from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec import structs
from transformers import CLIPVisionModel

from laterna.errors import LaternaError
from laterna.records import Box, Toy, Truth
from laterna.world.drawing import draw_image
from laterna.world.scenes import draw_truth, stream_of
from pretrain_nano.regions import MIDDLE, DrawnRegions, learn_regions, words_on_patches
from pretrain_nano.settings import RegionPretraining, VisionPretraining
from pretrain_nano.vision import pretrain_vision, vocabulary

BEAR = Toy(
    category="teddy bear",
    colour="red",
    texture="striped",
    size="small",
    box=Box(category="teddy bear", x1=0.25, y1=0.0, x2=0.5, y2=0.25),
)
SIGN = Box(category="sign", x1=0.5, y1=0.875, x2=0.875, y2=1.0)
SCENE = Truth(id="0", image="0.png", lighting="dim", sign="STOP", sign_box=SIGN, toys=(BEAR,))


def test_patches_have_the_words_of_what_lies_on_them() -> None:
    words = words_on_patches(SCENE, 8)
    bear = ("teddy", "bear", "red", "small", "striped", "top")
    for row in range(8):
        for column in range(8):
            if (row, column) == (1, 3):
                assert words[row][column] == (MIDDLE, *bear)
            elif row < 2 and 2 <= column < 4:
                assert words[row][column] == bear
            elif row == 7 and 4 <= column < 7:
                assert words[row][column] == ("sign", "STOP")
            else:
                assert words[row][column] == ("no",)


def test_the_vocabulary_of_alt_text_has_all_words_of_patches() -> None:
    known = vocabulary()
    for index in range(400):
        for row in words_on_patches(draw_truth("pretrain", 1, index), 8):
            assert all(word in known for words in row for word in words)


def test_a_image_comes_with_its_patches_shares_of_words() -> None:
    regions = DrawnRegions(RegionPretraining(seed=3, steps=5, batch=2), 8)
    assert len(regions) == 10
    pixels, shares = regions[7]
    truth = draw_truth("pretrain", 3, 10_000_007)
    assert stream_of(truth) == "pretrain"
    image = np.asarray(draw_image(truth, noise_seed=7), dtype=np.float32) / 255
    assert np.allclose(pixels.numpy().transpose(1, 2, 0), image)
    words = vocabulary()
    expected = [said for row in words_on_patches(truth, 8) for said in row]
    assert shares.shape == (64, len(words) + 3)
    assert shares.sum(1).tolist() == pytest.approx([1.0] * 64)
    for patch, said in enumerate(expected):
        assert set(shares[patch].nonzero()[:, 0].tolist()) == {words[w] for w in said}


def test_going_on_changes_the_layers_that_are_read(tmp_path: Path) -> None:
    pretrain_vision(VisionPretraining(steps=1, batch=2), tmp_path / "begun")
    settings = RegionPretraining(steps=2, batch=2, workers=0, report_every=1)
    figures = learn_regions(tmp_path / "begun", settings, tmp_path / "on")
    assert figures.keys() == {"step", "loss", "right_on_things"}
    assert 1.0 < figures["loss"] < math.log(len(vocabulary()) + 3), "a step below chance"
    begun, on = (
        CLIPVisionModel.from_pretrained(tmp_path / name).state_dict() for name in ("begun", "on")
    )
    assert begun.keys() == on.keys()
    changed = {name for name in begun if not torch.equal(begun[name], on[name])}
    assert any("layers.2." in name for name in changed)
    assert not any("layers.3." in name for name in changed), "its features are not read"


def test_every_toy_has_a_middle_of_its_own() -> None:
    for index in range(300):
        truth = draw_truth("pretrain", 2, index)
        said = [words for row in words_on_patches(truth, 8) for words in row]
        assert sum(words.count(MIDDLE) for words in said) == len(truth.toys)
        assert all(words.count(MIDDLE) <= 1 for words in said)


def test_a_scene_without_sign_says_nothing_of_one() -> None:
    plain = structs.replace(SCENE, sign=None, sign_box=None)
    assert all("sign" not in words for row in words_on_patches(plain, 8) for words in row)


def test_a_folder_without_an_encoder_is_named(tmp_path: Path) -> None:
    with pytest.raises(LaternaError, match=f"{tmp_path}: cannot read the vision encoder"):
        learn_regions(tmp_path, RegionPretraining(), tmp_path / "out")
    assert not list(tmp_path.iterdir())
