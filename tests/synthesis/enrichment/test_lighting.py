from __future__ import annotations

import pytest
from PIL import Image

from laterna.records import Truth
from laterna.synthesis.enrichment.lighting import (
    BRIGHT_ABOVE,
    DIM_BELOW,
    mean_luminance,
    measure,
)


def flat(red: int, green: int, blue: int) -> Image.Image:
    return Image.new("RGB", (4, 4), (red, green, blue))


def test_luminance_is_that_of_linear_light() -> None:
    assert mean_luminance(flat(0, 0, 0)) == 0.0
    assert mean_luminance(flat(255, 255, 255)) == pytest.approx(1.0)
    assert mean_luminance(flat(0, 255, 0)) == pytest.approx(0.7152)
    assert mean_luminance(flat(118, 118, 118)) == pytest.approx(0.1812, abs=1e-4)


def test_thresholds_lie_a_third_of_a_stop_from_middle_grey() -> None:
    assert pytest.approx(0.1429, abs=1e-4) == DIM_BELOW
    assert pytest.approx(0.2268, abs=1e-4) == BRIGHT_ABOVE
    assert measure(flat(105, 105, 105)) == ["lighting: dim"]  # 0.141
    assert measure(flat(107, 107, 107)) == ["lighting: moderate"]  # 0.147
    assert measure(flat(130, 130, 130)) == ["lighting: moderate"]  # 0.223
    assert measure(flat(133, 133, 133)) == ["lighting: bright"]  # 0.235


def test_the_world_is_told_bright_from_dim(drawn: list[tuple[Truth, Image.Image]]) -> None:
    told = [(truth.lighting, measure(image)[0]) for truth, image in drawn]
    right = sum(line == f"lighting: {lighting}" for lighting, line in told)
    assert right >= 98
    assert not {("bright", "lighting: dim"), ("dim", "lighting: bright")} & set(told)
