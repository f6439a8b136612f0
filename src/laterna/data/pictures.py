"""Picture files become pixels: opened with care, made square, normalised as the encoder wants."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps

from laterna.errors import LaternaError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import BaseImageProcessor

MAX_PIXELS = 89_478_485
"""Pillow's own threshold for a decompression bomb."""
MAX_SIDE = 10_000
"""Longest side in pixels: padding squares it, so a long thin picture is a bomb of its own."""
CLIP_MEAN_COLOUR = (122, 116, 104)

Colour = tuple[int, int, int]

_WHERE_PILLOW_READS = re.compile(r" <_io\.BytesIO object at 0x[0-9a-f]+>")
"""An address that says nothing to a person."""

_ON_ITS_SIDE = frozenset({5, 6, 7, 8})
"""EXIF orientations that swap width and height."""
_SIXTEEN_BIT = frozenset({"I", "I;16", "I;16L", "I;16B", "I;16N"})
# What Pillow's readers raise on damaged files, besides OSError.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    EOFError,
    struct.error,
)


class MissingPictureError(LaternaError):
    """There is no file of a picture's name."""


def load_picture(source: Path | bytes, name: str = "") -> Image.Image:
    """Open a picture as a person sees it, in RGB, from its file or from the bytes of one.

    The EXIF orientation is applied, transparency shows white, 16-bit grey is scaled to 8 bits,
    and of several frames (GIF, APNG, WebP, TIFF) the first is taken. `name` stands for the bytes
    in errors; a file has its own.

    Raises LaternaError, naming the picture, when it is missing (MissingPictureError), truncated,
    not a picture, of floating-point pixels, or larger than `MAX_PIXELS` or `MAX_SIDE`.
    """
    return _read(source, name, coarse=False)


def check_picture(source: Path | bytes, name: str = "") -> None:
    """Read a picture to its end to see that it can be; raises as `load_picture` does."""
    _read(source, name, coarse=True)


def picture_size(source: Path | bytes, name: str = "") -> tuple[int, int]:
    """Return width and height of a picture as a person sees it, from the head of its file alone.

    Raises as `load_picture` does, but for damage behind the head.
    """
    with _opened(source, name) as picture:
        width, height = picture.size
        turned = picture.getexif().get(ExifTags.Base.Orientation) in _ON_ITS_SIDE
        return (height, width) if turned else (width, height)


def _read(source: Path | bytes, name: str, *, coarse: bool) -> Image.Image:
    """Read a picture; `coarse`: at the lowest resolution that its format can be decoded at."""
    with _opened(source, name) as picture:
        if coarse:
            picture.draft("RGB", (1, 1))
        return _to_rgb(ImageOps.exif_transpose(picture))


@contextmanager
def _opened(source: Path | bytes, name: str) -> Iterator[Image.Image]:
    """Open a picture that is not too large, and name it in whatever is wrong with it."""
    if isinstance(source, Path):
        name = str(source)
    try:
        with Image.open(source if isinstance(source, Path) else io.BytesIO(source)) as picture:
            _refuse_bomb(picture, name)
            yield picture
    except FileNotFoundError as error:
        raise MissingPictureError(f"{name}: no such picture") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise LaternaError(f"{name}: picture too large to open: {error}") from error
    except _DAMAGE as error:
        reason = _WHERE_PILLOW_READS.sub("", str(error))
        raise LaternaError(f"{name}: cannot be read as a picture: {reason}") from error


def blank(size: int | tuple[int, int], colour: Colour = CLIP_MEAN_COLOUR) -> Image.Image:
    """Return the control picture: one colour all over. `size` is a side, or width and height."""
    return Image.new("RGB", (size, size) if isinstance(size, int) else size, colour)


def pad_to_square(picture: Image.Image, colour: Colour) -> Image.Image:
    """Centre an RGB picture on a square of its longer side, the rest filled with a colour."""
    side = max(picture.size)
    if picture.size == (side, side):
        return picture
    square = Image.new("RGB", (side, side), colour)
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return square


class PicturePreparer:
    """Pictures of any size to the pixels that a vision encoder expects.

    Works with any Hugging Face image processor that has `size`, `image_mean` and `image_std`.
    Nothing is cropped: a picture is padded to a square (`pad`, LLaVA-1.5) or stretched to one
    (`resize`), and then resized and normalised by the processor.
    """

    def __init__(self, processor: BaseImageProcessor, fit: Literal["pad", "resize"]) -> None:
        """Raise LaternaError when the processor's output is not square."""
        self.processor = processor
        self.fit = fit
        self.size = _square_side(processor)
        red, green, blue = (int(level * 255) for level in processor.image_mean)
        self.mean_colour: Colour = (red, green, blue)
        """The encoder's mean colour, 0..255, cut to whole levels as LLaVA-1.5 does."""

    def __call__(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Return pixels of shape (b, c, h, w), float32, for RGB pictures."""
        if not pictures:
            return torch.empty(0, 3, self.size, self.size)
        if self.fit == "pad":
            pictures = [pad_to_square(picture, self.mean_colour) for picture in pictures]
        pixels: Tensor = self.processor(
            list(pictures),
            size={"height": self.size, "width": self.size},
            do_resize=True,
            do_center_crop=False,
            return_tensors="pt",
        )["pixel_values"]
        return pixels.to(torch.float32)

    def blank(self) -> Image.Image:
        """Return a picture of the encoder's mean colour, at the encoder's size."""
        return blank(self.size, self.mean_colour)


def _square_side(processor: BaseImageProcessor) -> int:
    """Return the side of the squares that a processor makes when left to itself."""
    crops = getattr(processor, "do_center_crop", False)
    size = dict(processor.crop_size if crops else processor.size)
    sides = {size[key] for key in ("height", "width", "shortest_edge") if size.get(key)}
    if len(sides) != 1:
        raise LaternaError(
            f"{type(processor).__name__} makes pictures of size {size}; Laterna needs square ones"
        )
    return int(sides.pop())


def _refuse_bomb(picture: Image.Image, name: str) -> None:
    """Raise LaternaError for a picture whose pixels would fill the memory, before they do."""
    width, height = picture.size
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise LaternaError(
            f"{name}: {width}×{height} pixels is too large to open (at most {MAX_PIXELS:,} pixels "
            f"and {MAX_SIDE:,} a side); make it smaller"
        )


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode in _SIXTEEN_BIT:
        levels = np.clip(np.asarray(picture, dtype=np.int64), 0, 65535)
        return Image.fromarray(((levels + 128) // 257).astype(np.uint8)).convert("RGB")
    if picture.mode == "F":
        raise ValueError("floating-point pixels have no fixed white; save it with 8 bits")
    if picture.has_transparency_data:
        seen = picture.convert("RGBA")
        white = Image.new("RGBA", seen.size, "white")
        return Image.alpha_composite(white, seen).convert("RGB")
    return picture.convert("RGB")
