"""Texture: whether the surface inside a box looks smooth, rough or striped.

Measured in the middle half of the box, where there is least background, on grey values divided
by their mean, so that light and colour do not matter. Fine variation is what is left when the
slow changes of shade are taken away. It is striped where it is strong and much of it is in the
means of the rows, or of the columns: stripes run level or upright. Else the surface is rough
from some median Sobel gradient on. All thresholds were fitted to toys of the embedded world, and
measured on others (85 % of three kinds right; docs/synthesis-enrichment.md). On photographs this
tells how busy the pixels are, which is the surface only where the object fills its box.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from laterna.records import Box
from laterna.synthesis.enrichment.base import import_extra, write_corners

PREFIX = "texture of "
ROUGH_FROM = 0.124
"""Median Sobel gradient, of a brightness whose mean is 1, from which a surface is rough."""
STRIPED_FROM = 0.35
"""Share of the fine variance that rows or columns must hold for it to be striped."""
CONTRAST_FROM = 0.18
"""Standard deviation of the fine variation, as a share of the mean, that stripes must have."""
SMALLEST = 20
"""Pixels: boxes with a shorter side than this are not measured."""
LARGEST = 64
"""Pixels: a longer middle half is reduced to this, or what is far apart would look smooth."""


class Surface(NamedTuple):
    """What is measured of one box."""

    roughness: float
    stripedness: float
    contrast: float

    @property
    def word(self) -> str:
        """Return smooth, rough or striped."""
        if self.stripedness > STRIPED_FROM and self.contrast > CONTRAST_FROM:
            return "striped"
        return "rough" if self.roughness > ROUGH_FROM else "smooth"


def measure(image: Image.Image, boxes: tuple[Box, ...]) -> list[str]:
    """Return `texture of cup [...]: striped` for each box that is large enough."""
    grey = image.convert("L")
    lines = []
    for box in boxes:
        surface = measure_surface(grey, box)
        if surface is not None:
            lines.append(f"{PREFIX}{box.category} {write_corners(box)}: {surface.word}")
    return lines


def measure_surface(grey: Image.Image, box: Box) -> Surface | None:
    """Return what is measured of a box of a grey image; None where it is too small."""
    filters = import_extra("skimage.filters", "texture")
    middle = _middle(grey, box)
    if middle is None:
        return None
    level = middle / (middle.mean() + 1)  # + 1: black has no ratios
    fine = level - filters.gaussian(level, max(level.shape) / 6)
    profile = max(fine.mean(axis=1).var(), fine.mean(axis=0).var())
    return Surface(
        roughness=float(np.median(filters.sobel(level))),
        stripedness=float(profile / (fine.var() + 1e-9)),
        contrast=float(fine.std()),
    )


def _middle(grey: Image.Image, box: Box) -> NDArray[np.float64] | None:
    """Return the middle half of a box, at most `LARGEST` pixels long."""
    width, height = grey.size
    x1, x2 = round(box.x1 * width), round(box.x2 * width)
    y1, y2 = round(box.y1 * height), round(box.y2 * height)
    if min(x2 - x1, y2 - y1) < SMALLEST:
        return None
    across, down = int((x2 - x1) * 0.25), int((y2 - y1) * 0.25)
    middle = grey.crop((x1 + across, y1 + down, x2 - across, y2 - down))
    middle.thumbnail((LARGEST, LARGEST), Image.Resampling.BOX)
    return np.asarray(middle, dtype=np.float64)
