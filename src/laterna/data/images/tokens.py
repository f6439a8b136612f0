"""How many tokens an image takes, known before it is decoded; and AnyRes (LLaVA-NeXT), its tiles.

With AnyRes an image is seen whole, stretched to the encoder's square, and again as a grid of such
squares, onto which it is fitted in its own proportions, black beside it. All of it follows from
width and height, so tokens are counted by what later cuts the tiles out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from msgspec import structs

from laterna.data.images.opening import image_size
from laterna.records import Record, Sample, Tiling

Grid = tuple[int, int]
"""Rows and columns of tiles."""


class KeptTokens(NamedTuple):
    """The part of a grid's token map that the image covers; the rest saw only its border."""

    top: int
    left: int
    rows: int
    columns: int


def best_tiling(width: int, height: int, grids: Sequence[Grid], side: int) -> Tiling:
    """Return how an image of that size is tiled: on the grid that keeps most of its pixels.

    Of grids that keep as many, the one with the least border is taken, then the first in the
    list. `side` is that of the encoder's images, in pixels. Of an image so thin that no token
    of the grid is its own, the whole view alone will be left.
    """
    # transformers takes a second to import, which what tiles nothing need not wait for.
    from transformers.image_processing_utils import select_best_resolution

    sizes = [(rows * side, columns * side) for rows, columns in grids]
    rows, columns = (length // side for length in select_best_resolution((height, width), sizes))
    return Tiling(rows=rows, columns=columns, width=width, height=height)


def kept_tokens(tiling: Tiling, map_side: int) -> KeptTokens:
    """Return which tokens of the grid stay, each tile being a square map of `map_side` tokens.

    The border is rounded down to whole tokens and is as wide on either side, as in LLaVA-NeXT.
    """
    rows, columns = tiling.rows * map_side, tiling.columns * map_side
    if tiling.width / tiling.height > columns / rows:
        border = (rows - _scaled(tiling.height, columns, tiling.width)) // 2
        return KeptTokens(border, 0, rows - 2 * border, columns)
    border = (columns - _scaled(tiling.width, rows, tiling.height)) // 2
    return KeptTokens(0, border, rows, columns - 2 * border)


def tiled_tokens(tiling: Tiling, map_side: int) -> int:
    """Return the tokens of a tiled image: the whole view's, and those of each row and its end."""
    kept = kept_tokens(tiling, map_side)
    return map_side**2 + kept.rows * (kept.columns + 1)


def _scaled(length: int, tokens: int, pixels: int) -> int:
    # Seven decimals, so that a whole number of tokens is not cut for an error in the last bit.
    return int(round(length * (tokens / pixels), 7))


ImageCounter = Callable[[int, int], int]
"""Says how many tokens an image of a width and a height, in pixels as seen, takes."""


class SameTokens(Record, frozen=True):
    """The counter of encoders that bring every image to one size: no size need be read."""

    tokens: int

    def __call__(self, width: int = 0, height: int = 0) -> int:
        """Return the same number for every size."""
        del width, height  # the encoder brings every image to its own size
        return self.tokens


class TiledTokens(Record, frozen=True):
    """The counter of AnyRes: the whole view, the tiles' tokens that saw the image, newlines."""

    grids: tuple[Grid, ...]
    """Rows and columns of tiles, to choose from."""
    side: int
    """Of a tile, in pixels."""
    map_side: int
    """Of a tile, in tokens."""

    def __call__(self, width: int, height: int) -> int:
        """Return the tokens of an image of that size."""
        return tiled_tokens(best_tiling(width, height, self.grids, self.side), self.map_side)


def count_images(sample: Sample, counter: ImageCounter, folder: Path | None) -> Sample:
    """Return a sample with its `image_tokens`, from the sizes that its files in `folder` name.

    Raises LaternaError, naming the file, when a size has to be read and cannot be, and ValueError
    when it has to be read and there is no folder.
    """
    if isinstance(counter, SameTokens):
        counts = (counter.tokens,) * len(sample.image_slots)
    elif folder is None and sample.images:
        raise ValueError(f"sample {sample.id}: its images' sizes are needed, but no folder given")
    else:
        counts = tuple(counter(*image_size(Path(folder or "", n))) for n in sample.images)
    return structs.replace(sample, image_tokens=counts)
