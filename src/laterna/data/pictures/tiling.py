"""AnyRes (LLaVA-NeXT): which tiles a picture of a size is cut into, and which tokens of them stay.

A picture is seen whole, stretched to the encoder's square, and again as a grid of such squares,
onto which it is fitted in its own proportions, black beside it. All of it follows from width and
height, so tokens are counted before a picture is decoded, by what later cuts them out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from laterna.records import Tiling

Grid = tuple[int, int]
"""Rows and columns of tiles."""


class KeptTokens(NamedTuple):
    """The part of a grid's token map that the picture covers; the rest saw only its border."""

    top: int
    left: int
    rows: int
    columns: int


def best_tiling(width: int, height: int, grids: Sequence[Grid], side: int) -> Tiling:
    """Return how a picture of that size is tiled: on the grid that keeps most of its pixels.

    Of grids that keep as many, the one with the least border is taken, then the first in the
    list. `side` is that of the encoder's pictures, in pixels. Of a picture so thin that no token
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
    """Return the tokens of a tiled picture: the whole view's, and those of each row and its end."""
    kept = kept_tokens(tiling, map_side)
    return map_side**2 + kept.rows * (kept.columns + 1)


def _scaled(length: int, tokens: int, pixels: int) -> int:
    # Seven decimals, so that a whole number of tokens is not cut for an error in the last bit.
    return int(round(length * (tokens / pixels), 7))
