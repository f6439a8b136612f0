"""An image as the encoder is given it, whole or with a part covered, on a grid of square cells.

Shapes: b tiles · c channels · h, w pixels.
"""

from __future__ import annotations

from math import isqrt

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from laterna.data.images.fitting import ImagePreparer
from laterna.model.vlm import VisionLanguageModel

Window = tuple[slice, slice]
"""Rows and columns of cells."""


def grid_of(model: VisionLanguageModel) -> tuple[int, int | None]:
    """Return the side of the grid, and how many tokens stand before its own; None: no map.

    A cell is what one token is of, where tokens are a map of the image, else a patch.
    """
    patches, tokens = model.vision.patches, model.connector.tokens(model.vision.patches)
    side, extra = isqrt(tokens), int(model.vision.class_token)
    if model.connector.is_map and tokens == side * side + extra:
        return side, extra
    return isqrt(patches - extra), None


def windows_of(side: int, window: int) -> list[Window]:
    """Return the squares of `window` cells a side that tile a grid, row by row; the last smaller.

    A window as large as the grid or larger is all of it.
    """
    ends = [slice(at, min(at + window, side)) for at in range(0, side, window)]
    return [(rows, columns) for rows in ends for columns in ends]


class Covering:
    """One image, ready to be given with a part of it in the encoder's mean colour."""

    def __init__(self, prepare: ImagePreparer, image: Image.Image, side: int) -> None:
        self.pixels_bchw = prepare([image])
        """Uncovered; the whole view first where it is tiled."""
        self._prepare, self._image, self._side = prepare, image, side

    def cover(self, window: Window) -> Tensor:
        """Return the pixels (b, c, h, w) with a window covered.

        A tiled image is covered before it is tiled, so the window is gone from every tile.
        """
        rows, columns = window
        if not self._prepare.grids:
            size = self.pixels_bchw.shape[-1]
            covered = self.pixels_bchw.clone()
            covered[:, :, self._span(rows, size), self._span(columns, size)] = 0  # normalized mean
            return covered
        image = self._image.copy()
        across, down = image.width / self._side, image.height / self._side
        corners = (columns.start * across, rows.start * down,
                   columns.stop * across - 1, rows.stop * down - 1)  # fmt: skip
        left, top, right, bottom = map(round, corners)
        ImageDraw.Draw(image).rectangle(
            (left, top, max(left, right), max(top, bottom)), fill=self._prepare.mean_colour
        )
        return self._prepare([image])

    def _span(self, cells: slice, size: int) -> slice:
        """Return a span in pixels; the last cell has what is left beyond the last whole patch."""
        patch = size // self._side
        return slice(cells.start * patch, size if cells.stop == self._side else cells.stop * patch)

    def shown(self) -> list[Image.Image]:
        """Return the squares that the encoder is given, as they look."""
        processor = self._prepare.processor
        mean, spread = (
            torch.tensor(levels)[:, None, None]
            for levels in (processor.image_mean, processor.image_std)
        )
        levels = ((self.pixels_bchw * spread + mean) * 255).round().clamp(0, 255).to(torch.uint8)
        return [Image.fromarray(one.permute(1, 2, 0).numpy()) for one in levels]
