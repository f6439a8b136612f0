"""How many tokens and tiles a recipe's images take: by their own sizes, as told, or at most."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from laterna.data.images.files import open_images
from laterna.data.images.opening import image_size
from laterna.data.images.tokens import tiled_tokens
from laterna.data.preparation.checking import LISTINGS
from laterna.data.sources import read_rows
from laterna.errors import LaternaError
from laterna.model.connectors.tiles import map_side
from laterna.model.vlm import VisionLanguageModel
from laterna.recipe import Recipe, SourceSettings, StageName
from laterna.records import InstructionRecord, Record, Tiling

LOOKED_AT = 2000
"""Images whose sizes are read, drawn by lot from a stage's."""


class ShownImage(Record):
    """What an image takes."""

    tokens: int
    """Positions in the language model's row."""
    tiles: float = 1
    """Squares that the encoder reads of it, the whole view included."""
    beside: int = 0
    """Tokens beside the row, for the fusion's cross-attention; 0: they are in the row."""


class Images(Record):
    """What a stage's images take."""

    typical: ShownImage
    """The mean of them: FLOPs and hours follow from it."""
    largest: ShownImage
    """The one with most tokens: memory follows from it."""
    known_by: str = ""
    """How these are known, in words; empty: all images take the same."""


def filled_grids(skeleton: VisionLanguageModel) -> tuple[ShownImage, ...]:
    """Return what an image takes that fills each of the recipe's grids, in the order of tokens; one
    entry unless images are tiled (`vision.fit = "anyres"`). Other images take fewer tokens, for
    their border is cut off.
    """
    prepare = skeleton.prepare
    if not prepare.grids:
        return (_placed(skeleton, skeleton.connector.tokens(skeleton.vision.patches)),)
    side = prepare.size
    tilings = [
        Tiling(rows=rows, columns=columns, width=columns * side, height=rows * side)
        for rows, columns in prepare.grids
    ]
    return tuple(sorted(_shown(skeleton, tilings), key=_taken))


def stage_images(
    skeleton: VisionLanguageModel, recipe: Recipe, stage: StageName, tiles: int | None
) -> Images:
    """Return what a stage's images take: by a given number of `tiles`; else by their sizes, where
    they can be read; else as much as an image on the largest grid.

    Raises LaternaError for a number of tiles that no grid has.
    """
    grids = filled_grids(skeleton)
    if not skeleton.prepare.grids:
        if tiles is not None:
            raise LaternaError(
                f"--tiles {tiles}: this recipe does not tile its images (vision.fit = "
                f"{recipe.vision.fit!r}); leave it out, or plan with --vision.fit anyres"
            )
        return Images(typical=grids[0], largest=grids[0])
    if tiles is not None:
        given = _of_many([one for one in grids if one.tiles == tiles], "--tiles")
        if given is None:
            known = ", ".join(str(one) for one in sorted({round(one.tiles) for one in grids}))
            raise LaternaError(
                f"--tiles {tiles}: no grid of this recipe has that many; use {known}"
            )
        return given
    sizes, there = _sizes(recipe, stage)
    said = f"the sizes of {len(sizes):,} of the stage's {there:,} images"
    found = _of_many(_shown(skeleton, skeleton.prepare.tilings(sizes)), said)
    if found is not None:
        return found
    said = "the largest grid: the sizes of the stage's images cannot be read (--tiles tells)"
    return Images(typical=grids[-1], largest=grids[-1], known_by=said)


def _shown(skeleton: VisionLanguageModel, tilings: Sequence[Tiling]) -> list[ShownImage]:
    side = map_side(skeleton.connector.tokens(skeleton.vision.patches))
    return [_placed(skeleton, tiled_tokens(one, side), one.tiles) for one in tilings]


def _placed(skeleton: VisionLanguageModel, tokens: int, tiles: float = 1) -> ShownImage:
    """Return an image of so many tokens, which lie in the row or beside it."""
    if skeleton.fusion.beside_row:
        return ShownImage(tokens=1, tiles=tiles, beside=tokens)
    return ShownImage(tokens=tokens, tiles=tiles)


def _taken(image: ShownImage) -> tuple[int, int]:
    return image.tokens, image.beside


def _of_many(found: Sequence[ShownImage], known_by: str) -> Images | None:
    if not found:
        return None
    return Images(
        typical=ShownImage(
            tokens=round(sum(one.tokens for one in found) / len(found)),
            tiles=sum(one.tiles for one in found) / len(found),
            beside=round(sum(one.beside for one in found) / len(found)),
        ),
        largest=max(found, key=_taken),
        known_by=known_by,
    )


def _sizes(recipe: Recipe, stage: StageName) -> tuple[list[tuple[int, int]], int]:
    """Return widths and heights of images drawn by lot, and how many the stage has."""
    names = list(_names(recipe, stage))
    drawn = random.Random(0).sample(names, min(LOOKED_AT, len(names)))
    listings = Path(recipe.prepared) / LISTINGS
    places = {}
    sizes = []
    for source, name in drawn:
        try:
            if source.images not in places:
                places[source.images] = open_images(source.images, listings)
            sizes.append(image_size(places[source.images].find(name), name))
        except LaternaError:
            continue  # training names its fault; the other images are enough here
    return sizes, len(names)


def _names(recipe: Recipe, stage: StageName) -> Iterator[tuple[SourceSettings, str]]:
    """Yield each image of the stage's sources once, of those that can be read."""
    for source in recipe.stage(stage).mixture():
        seen: dict[str, None] = {}
        # Training refuses and counts the rows that are none, and says why a source ends.
        with suppress(LaternaError):
            for row in read_rows(source) if source.images else ():
                if isinstance(row, InstructionRecord):
                    seen.update(dict.fromkeys(row.images))
        yield from ((source, name) for name in seen)
