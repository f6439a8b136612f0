"""How many tokens a picture takes in the language model's context, known before it is decoded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from msgspec import structs

from laterna.data.pictures import picture_size
from laterna.data.pictures.tiling import Grid, best_tiling, tiled_tokens
from laterna.records import Record, Sample

PictureCounter = Callable[[int, int], int]
"""Says how many tokens a picture of a width and a height, in pixels as seen, takes."""


class SameTokens(Record, frozen=True):
    """The counter of encoders that bring every picture to one size: no size need be read."""

    tokens: int

    def __call__(self, width: int = 0, height: int = 0) -> int:
        """Return the same number for every size."""
        del width, height  # the encoder brings every picture to its own size
        return self.tokens


class TiledTokens(Record, frozen=True):
    """The counter of AnyRes: the whole view, the tiles' tokens that saw the picture, newlines."""

    grids: tuple[Grid, ...]
    """Rows and columns of tiles, to choose from."""
    side: int
    """Of a tile, in pixels."""
    map_side: int
    """Of a tile, in tokens."""

    def __call__(self, width: int, height: int) -> int:
        """Return the tokens of a picture of that size."""
        return tiled_tokens(best_tiling(width, height, self.grids, self.side), self.map_side)


def count_pictures(sample: Sample, counter: PictureCounter, folder: Path | None) -> Sample:
    """Return a sample with its `picture_tokens`, from the sizes that its files in `folder` name.

    Raises LaternaError, naming the file, when a size has to be read and cannot be, and ValueError
    when it has to be read and there is no folder.
    """
    if isinstance(counter, SameTokens):
        counts = (counter.tokens,) * len(sample.picture_slots)
    elif folder is None and sample.pictures:
        raise ValueError(f"sample {sample.id}: its pictures' sizes are needed, but no folder given")
    else:
        counts = tuple(counter(*picture_size(Path(folder or "", n))) for n in sample.pictures)
    return structs.replace(sample, picture_tokens=counts)
