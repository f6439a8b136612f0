"""AnyRes: the tokens of an image's tiles become one sequence, its rows ended by newlines.

Shapes: b tiles · m tokens a tile · d width · y, x rows and columns of a token map.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from laterna.data.images.fitting import ImagePreparer
from laterna.data.images.tokens import SameTokens, TiledTokens, kept_tokens
from laterna.errors import LaternaError
from laterna.records import Tiling


def map_side(tokens: int) -> int:
    """Return the side of a square map of so many tokens; raises LaternaError for no square."""
    side = math.isqrt(tokens)
    if side * side != tokens:
        raise LaternaError(
            f"{tokens} tokens per tile do not form a square, which vision.fit = 'anyres' needs; "
            "leave vision.class_token false, or choose another connector or `fit`"
        )
    return side


def token_counter(prepare: ImagePreparer, tokens: int) -> SameTokens | TiledTokens:
    """Return the counter of an image's tokens, where one square becomes `tokens`.

    Raises LaternaError as `map_side` does, where images are tiled.
    """
    if not prepare.grids:
        return SameTokens(tokens=tokens)
    return TiledTokens(grids=prepare.grids, side=prepare.size, map_side=map_side(tokens))


def join_tiles(
    tokens_bmd: Tensor, tilings: Sequence[Tiling], newline_d: Tensor | None
) -> list[Tensor]:
    """Return each image's tokens (m, d): the whole view's, then its grid's, row by row.

    The tiles' maps are laid side by side into one, the border is cut off, and each row ends with
    the newline (LLaVA-NeXT's `spatial_unpad`).

    Raises LaternaError when tiles and tilings differ in number, or a tile is no square map.
    """
    given, wanted = len(tokens_bmd), sum(tiling.tiles for tiling in tilings)
    if given != wanted:
        raise LaternaError(f"{given} tiles but their images have {wanted}")
    if newline_d is None:
        raise LaternaError("the connector has no newline; it was built without AnyRes")
    tiles = torch.split(tokens_bmd, [tiling.tiles for tiling in tilings])
    return [_join(*pair, newline_d) for pair in zip(tiles, tilings, strict=True)]


def _join(tiles_bmd: Tensor, tiling: Tiling, newline_d: Tensor) -> Tensor:
    _, tokens, width = tiles_bmd.shape
    side = map_side(tokens)
    grid = tiles_bmd[1:].reshape(tiling.rows, tiling.columns, side, side, width)
    map_yxd = grid.transpose(1, 2).reshape(tiling.rows * side, tiling.columns * side, width)
    kept = kept_tokens(tiling, side)
    map_yxd = map_yxd[kept.top : kept.top + kept.rows, kept.left : kept.left + kept.columns]
    newlines = newline_d.to(map_yxd.dtype).expand(kept.rows, 1, width)
    lines = torch.cat([map_yxd, newlines], dim=1)
    return torch.cat([tiles_bmd[0], lines.flatten(0, 1)])
