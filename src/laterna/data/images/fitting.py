"""Opened images become an encoder's pixels: padded, cropped, stretched or tiled, and normalized.

Shapes: b images, or tiles of them · c channels · h, w pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from laterna.data.images.tokens import Grid, best_tiling
from laterna.errors import LaternaError
from laterna.recipe import Fit
from laterna.records import Tiling

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import BaseImageProcessor

Colour = tuple[int, int, int]
CLIP_MEAN_COLOUR: Colour = (122, 116, 104)


def blank(size: int | tuple[int, int], colour: Colour = CLIP_MEAN_COLOUR) -> Image.Image:
    """Return the control image: one colour all over. `size` is a side, or width and height."""
    return Image.new("RGB", (size, size) if isinstance(size, int) else size, colour)


def pad_to_square(image: Image.Image, colour: Colour) -> Image.Image:
    """Centre an RGB image on a square of its longer side, the rest filled with a colour."""
    side = max(image.size)
    if image.size == (side, side):
        return image
    square = Image.new("RGB", (side, side), colour)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


class ImagePreparer:
    """Images of any size to the pixels that a vision encoder expects.

    Works with any Hugging Face image processor that has `size`, `image_mean` and `image_std`; it
    resizes, crops and normalizes. `fit` is how an image becomes square:

    - `pad`: padded to a square with the encoder's mean colour (LLaVA-1.5);
    - `crop`: its shorter side fitted, the middle of the longer one kept (CLIP);
    - `resize`: stretched;
    - `anyres`: whole and in tiles, on the best of `grids` (LLaVA-NeXT).
    """

    def __init__(self, processor: BaseImageProcessor, fit: Fit, grids: Sequence[Grid] = ()) -> None:
        """Raise LaternaError when the processor's output is not square, when it has no usable mean,
        deviation or resampling, or grids are lacking.
        """
        if fit == "anyres" and not grids:
            raise LaternaError("vision.fit = 'anyres' needs at least one grid in `vision.grids`")
        self.processor = processor
        self.fit = fit
        self.grids = tuple(grids) if fit == "anyres" else ()
        _require_usable(processor)
        self.size = _square_side(processor)
        red, green, blue = (int(level * 255) for level in processor.image_mean)
        self.mean_colour: Colour = (red, green, blue)
        """The encoder's mean colour, 0..255, cut to whole levels as LLaVA-1.5 does."""
        self._tiler = _tiler(processor, self.size, self.grids) if self.grids else None

    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        """Return pixels of shape (b, c, h, w), float32, for RGB images.

        Under `anyres` b counts tiles: of each image in turn the whole view and its grid, row by
        row; `tilings` says how many.
        """
        if not images:
            return torch.empty(0, 3, self.size, self.size)
        if self._tiler is not None:
            tiled = self._tiler(list(images))["pixel_values"]
            return torch.from_numpy(np.concatenate(tiled)).to(torch.float32)
        if self.fit == "pad":
            images = [pad_to_square(image, self.mean_colour) for image in images]
        crops = self.fit == "crop"
        square = {"height": self.size, "width": self.size}
        pixels: Tensor = self.processor(
            list(images),
            size={"shortest_edge": self.size} if crops else square,
            crop_size=square,
            do_resize=True,
            do_center_crop=crops,
            return_tensors="pt",
        )["pixel_values"]
        return pixels.to(torch.float32)

    def tilings(self, sizes: Sequence[tuple[int, int]]) -> tuple[Tiling, ...]:
        """Return how images of these widths and heights are tiled; nothing unless `anyres`."""
        if not self.grids:
            return ()
        return tuple(best_tiling(*size, self.grids, self.size) for size in sizes)

    def blank(self, width: int, height: int) -> Image.Image:
        """Return an image of the encoder's mean colour, as large as the one it stands for: so it
        is tiled alike and takes as many tokens.
        """
        return blank((width, height), self.mean_colour)


def _require_usable(processor: BaseImageProcessor) -> None:
    """Raise LaternaError for settings with which no image could be prepared."""
    for name, least in (("image_mean", -math.inf), ("image_std", 0.0)):
        values = getattr(processor, name, None)
        levels = values if isinstance(values, list | tuple) else ()
        good = [isinstance(one, int | float) and least < one < math.inf for one in levels]
        if good != [True] * 3:
            raise LaternaError(
                f"{name} = {values!r} in the encoder's preprocessor_config.json: three numbers "
                f"are needed{', above 0' if least == 0 else ''}, one a colour"
            )
    try:
        Image.Resampling(processor.resample)
    except ValueError as error:
        raise LaternaError(
            f"resample = {processor.resample!r} in the encoder's preprocessor_config.json: give "
            "one of Pillow's, such as 3 (bicubic)"
        ) from error


def _square_side(processor: BaseImageProcessor) -> int:
    """Return the side of the squares that a processor makes when left to itself."""
    crops = getattr(processor, "do_center_crop", False)
    size = dict(processor.crop_size if crops else processor.size)
    sides = {size[key] for key in ("height", "width", "shortest_edge") if size.get(key)}
    if len(sides) != 1:
        raise LaternaError(
            f"{type(processor).__name__} makes images of size {size}; Laterna needs square ones"
        )
    return int(sides.pop())


def _tiler(processor: BaseImageProcessor, side: int, grids: Sequence[Grid]) -> Any:
    """Return LLaVA-NeXT's processor with the encoder's own mean, deviation and resampling."""
    from transformers.models.llava_next.image_processing_pil_llava_next import (
        LlavaNextImageProcessorPil,
    )

    return LlavaNextImageProcessorPil(
        image_grid_pinpoints=[[rows * side, columns * side] for rows, columns in grids],
        size={"height": side, "width": side},
        crop_size={"height": side, "width": side},
        resample=processor.resample,
        rescale_factor=processor.rescale_factor,
        image_mean=processor.image_mean,
        image_std=processor.image_std,
        do_pad=False,
    )
