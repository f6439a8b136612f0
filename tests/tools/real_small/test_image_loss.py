"""The tool that holds a text's own image against another one and against none."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from laterna.errors import LaternaError
from laterna.records import Sample
from real_small.image_loss import image_losses

if TYPE_CHECKING:
    from collections.abc import Callable

    from laterna.model.vlm import VisionLanguageModel


def test_other_is_the_next_image_and_blank_is_one_colour(
    tiny_assistant: VisionLanguageModel, answered: Callable[[str, str], Sample], tmp_path: Path
) -> None:
    names = ("red.png", "noise.png")
    folder, swapped, empty = (tmp_path / part for part in ("folder", "swapped", "empty"))
    for made in (folder, swapped, empty):
        made.mkdir()
    for name in names:
        tiny_assistant.prepare.blank(28, 28).save(empty / name)
    Image.new("RGB", (32, 32), (250, 0, 0)).save(folder / names[0])
    Image.effect_noise((32, 32), 90).convert("RGB").save(folder / names[1])
    for here, there in zip(names, names[::-1], strict=True):
        shutil.copy(folder / here, swapped / there)
    samples = [
        answered(names[0], "A red one."),
        answered(names[1], "?"),
    ]
    losses = image_losses(tiny_assistant, samples, folder)
    assert losses["own"] != pytest.approx(losses["other"], abs=1e-6)
    assert losses["own"] != pytest.approx(losses["blank"], abs=1e-6)
    in_swapped = image_losses(tiny_assistant, samples, swapped)
    assert losses["other"] == pytest.approx(in_swapped["own"], abs=1e-6)
    assert losses["own"] == pytest.approx(in_swapped["other"], abs=1e-6)
    in_empty = image_losses(tiny_assistant, samples, empty)
    assert set(in_empty) == {"own", "other", "blank"}
    for loss in in_empty.values():
        assert loss == pytest.approx(losses["blank"], abs=1e-6)


def test_another_image_is_needed(
    tiny_assistant: VisionLanguageModel, answered: Callable[[str, str], Sample], tmp_path: Path
) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    with pytest.raises(LaternaError, match="1 images; another one needs at least 2"):
        image_losses(tiny_assistant, [answered("a.png", "?")], tmp_path)
