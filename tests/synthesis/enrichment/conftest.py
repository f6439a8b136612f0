"""Drawn images of the world, whose light, textures and signs are known."""

from __future__ import annotations

import pytest
from PIL import Image

from laterna.records import Truth
from laterna.world.drawing import draw_image
from laterna.world.scenes import draw_truth

SEED = 7
"""Not the seed 6 that texture's thresholds were fitted on."""


def draw(index: int) -> tuple[Truth, Image.Image]:
    truth = draw_truth("world", SEED, index)
    return truth, draw_image(truth, SEED * 1_000_003 + index)


@pytest.fixture(scope="session")
def drawn() -> list[tuple[Truth, Image.Image]]:
    """100 scenes of the world."""
    return [draw(index) for index in range(100)]
