from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from laterna.records import Box, Truth
from laterna.synthesis.enrichment.texture import measure, measure_surface

pytest.importorskip("skimage")
WHOLE = Box(category="cup", x1=0.0, y1=0.0, x2=1.0, y2=1.0)


def word(grey: NDArray[np.float64]) -> str:
    surface = measure_surface(Image.fromarray(grey.astype(np.uint8)), WHOLE)
    assert surface is not None
    return surface.word


def test_surfaces_that_are_clear() -> None:
    rows = np.arange(64)
    bands = np.where(rows % 8 < 4, 200.0, 90.0)[:, None] * np.ones((1, 64))
    noise = np.random.default_rng(0).uniform(60, 220, (64, 64))
    shade = np.linspace(100, 140, 64)[:, None] * np.ones((1, 64))
    assert word(shade) == "smooth"
    assert word(np.full((64, 64), 130.0)) == "smooth"
    assert word(np.zeros((64, 64))) == "smooth"
    assert word(noise) == "rough"
    assert word(bands) == "striped"
    assert word(bands.T) == "striped"


def test_light_does_not_matter() -> None:
    noise = np.random.default_rng(0).uniform(60, 220, (64, 64))
    bright = measure_surface(Image.fromarray(noise.astype(np.uint8)), WHOLE)
    dim = measure_surface(Image.fromarray((noise * 0.55).astype(np.uint8)), WHOLE)
    assert bright and dim
    assert dim.roughness == pytest.approx(bright.roughness, rel=0.02)
    assert dim.stripedness == pytest.approx(bright.stripedness, rel=0.02)


def test_a_line_a_box_but_none_for_boxes_too_small_to_measure() -> None:
    image = Image.new("RGB", (100, 100), (128, 128, 128))
    large = Box(category="wine glass", x1=0.1, y1=0.2, x2=0.3, y2=0.45)
    small = Box(category="fork", x1=0.1, y1=0.2, x2=0.29, y2=0.9)
    line = "texture of wine glass [0.1, 0.2, 0.3, 0.45]: smooth"
    assert measure(image, (small, large)) == [line]
    assert measure(image, ()) == []


def test_the_worlds_textures(drawn: list[tuple[Truth, Image.Image]]) -> None:
    """Held-out seed; docs/synthesis-enrichment.md gives the whole table over 300 scenes."""
    told: Counter[tuple[str, str]] = Counter()
    for truth, image in drawn:
        lines = measure(image, tuple(toy.box for toy in truth.toys))
        for toy, line in zip(truth.toys, lines, strict=True):
            told[toy.texture, line.rpartition(" ")[2]] += 1
    right = {name: told[name, name] for name in ("smooth", "rough", "striped")}
    total = {name: sum(n for (true, _), n in told.items() if true == name) for name in right}
    assert sum(right.values()) / sum(total.values()) >= 0.8
    assert right["smooth"] / total["smooth"] >= 0.75
    assert right["rough"] / total["rough"] >= 0.85
    assert right["striped"] / total["striped"] >= 0.75
