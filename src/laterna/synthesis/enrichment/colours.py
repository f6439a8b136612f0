"""Dominant colours: the colour names that cover most of an image.

Every pixel gets one of twelve names (the eleven basic colour terms of Berlin and Kay, and beige)
by its hue, saturation and value. The limits were set by hand and checked on the embedded world's
colours and on photographs; docs/synthesis-enrichment.md shows with what result.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from laterna.records import Box

PREFIX = "dominant colours: "
MOST = 3
"""Colours named at most."""
SHARE = 0.15
"""A colour is named from this share of the pixels on; the largest is named in any case."""
NAMES = (
    "black", "grey", "white", "red", "orange", "brown", "beige", "yellow", "green", "blue",
    "purple", "pink",
)  # fmt: skip
_SIDE = 256
"""Larger images are reduced to this many pixels before they are measured."""
_BLACK_VALUE = 0.12
_DARK_GREY_VALUE = 0.25
"""What shows no colour is black below this; what shows one only below `_BLACK_VALUE`."""
_WHITE_VALUE = 0.85
_GREY_SATURATION = 0.12
_GREY_CHROMA = 0.08
"""Saturation times value: what is dark shows no colour although its ratios have one."""
_HUES = ((15, "red"), (45, "orange"), (70, "yellow"), (165, "green"), (260, "blue"),
         (300, "purple"), (345, "pink"), (360, "red"))  # fmt: skip
"""Upper end of each hue in degrees, and its name where the colour is strong and light."""
_BROWN_VALUE = 0.68
"""Orange darker than this is brown, and so are pale red and yellow; strong yellow is green."""
_PALE_SATURATION = 0.5
"""Orange and yellow paler than this are beige, light red is pink."""


def measure(image: Image.Image, _boxes: tuple[Box, ...] = ()) -> list[str]:
    """Return one line with up to `MOST` names, largest share first."""
    shares = colour_shares(image)
    ranked = sorted(shares, key=lambda name: -shares[name])
    named = [name for name in ranked if shares[name] >= SHARE][:MOST] or ranked[:1]
    return [PREFIX + ", ".join(named)]


def colour_shares(image: Image.Image) -> dict[str, float]:
    """Return the share of an RGB image's pixels that each name covers."""
    small = image.copy()
    small.thumbnail((_SIDE, _SIDE), Image.Resampling.BOX)
    hsv = np.asarray(small.convert("HSV"), dtype=np.float64) / 255.0
    numbers = _name_numbers(hsv[..., 0] * 360, hsv[..., 1], hsv[..., 2])
    counts = np.bincount(numbers.ravel(), minlength=len(NAMES))
    return {name: float(count / numbers.size) for name, count in zip(NAMES, counts, strict=True)}


def _name_numbers(
    hue: NDArray[np.float64], saturation: NDArray[np.float64], value: NDArray[np.float64]
) -> NDArray[np.intp]:
    """Return the number in `NAMES` of each pixel; hue in degrees, the others 0..1."""
    ends = np.array([end for end, _ in _HUES[:-1]])
    by_hue = np.array([NAMES.index(name) for _, name in _HUES])
    named = by_hue[np.searchsorted(ends, hue, side="right")]
    orange, yellow, red = (named == NAMES.index(name) for name in ("orange", "yellow", "red"))
    pale = saturation < _PALE_SATURATION
    light = value >= _BROWN_VALUE
    named[orange & ~light] = NAMES.index("brown")
    named[(red | yellow) & ~light & pale] = NAMES.index("brown")
    named[yellow & ~light & ~pale] = NAMES.index("green")  # olive
    named[(orange | yellow) & light & pale] = NAMES.index("beige")
    named[red & light & pale] = NAMES.index("pink")
    grey = (saturation < _GREY_SATURATION) | (saturation * value < _GREY_CHROMA)
    named[grey] = NAMES.index("grey")
    named[grey & (value > _WHITE_VALUE)] = NAMES.index("white")
    black = (value < _BLACK_VALUE) | (grey & (value < _DARK_GREY_VALUE))
    named[black] = NAMES.index("black")
    return named
