"""Lighting: whether an image is bright or dim, by its mean luminance.

The measure is the mean of the relative luminance Y (Rec. 709 weights of linear sRGB, 0..1). The
reference is photography's middle grey, a reflectance of 18 %, at which meters expose an average
scene; the thresholds lie a third of a stop, a camera's usual step, on either side of it. It tells
how light the image is, which a dark subject in full daylight lowers like a dark room.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from laterna.records import Box

PREFIX = "lighting: "
MIDDLE_GREY = 0.18
DIM_BELOW = MIDDLE_GREY / 2 ** (1 / 3)
"""0.143"""
BRIGHT_ABOVE = MIDDLE_GREY * 2 ** (1 / 3)
"""0.227"""
_SIDE = 512
"""Larger images are reduced to this many pixels before they are measured."""
_LUMINANCE = np.array((0.2126, 0.7152, 0.0722))


def measure(image: Image.Image, _boxes: tuple[Box, ...] = ()) -> list[str]:
    """Return one line: `lighting: bright`, `lighting: moderate` or `lighting: dim`."""
    luminance = mean_luminance(image)
    if luminance < DIM_BELOW:
        return [f"{PREFIX}dim"]
    return [f"{PREFIX}{'bright' if luminance > BRIGHT_ABOVE else 'moderate'}"]


def mean_luminance(image: Image.Image) -> float:
    """Return the mean relative luminance of an RGB image, 0..1."""
    small = image.copy()
    small.thumbnail((_SIDE, _SIDE), Image.Resampling.BOX)
    return float((_linear(np.asarray(small, dtype=np.float64) / 255.0) @ _LUMINANCE).mean())


def _linear(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Undo sRGB's transfer curve (IEC 61966-2-1)."""
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
