"""How many tokens and tiles a recipe's pictures take, before one is seen."""

from __future__ import annotations

from laterna.data.pictures.tiling import tiled_tokens
from laterna.model.tiles import map_side
from laterna.model.vlm import VisionLanguageModel
from laterna.records import Record, Tiling


class TokenSpan(Record):
    """Tokens of a picture in the language model's context, over all shapes of pictures."""

    fewest: int
    """Of the grids that pictures fill; the border of others is cut off, which makes fewer yet."""
    most: int
    tiles: int = 1
    """Squares that the encoder sees of the picture with most tokens, the whole view included."""


def token_span(skeleton: VisionLanguageModel) -> TokenSpan:
    """Return the span: one number unless pictures are tiled (`vision.fit = "anyres"`)."""
    tokens = skeleton.connector.tokens(skeleton.vision.patches)
    prepare = skeleton.prepare
    if not prepare.grids:
        return TokenSpan(fewest=tokens, most=tokens)
    side, inside = prepare.size, map_side(tokens)
    filled = [
        Tiling(rows=rows, columns=columns, width=columns * side, height=rows * side)
        for rows, columns in prepare.grids
    ]
    counts = [tiled_tokens(tiling, inside) for tiling in filled]
    return TokenSpan(
        fewest=min(counts), most=max(counts), tiles=filled[counts.index(max(counts))].tiles
    )
