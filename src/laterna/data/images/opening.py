"""Image files, or their bytes, become what a person sees in them; what cannot be is named."""

from __future__ import annotations

import io
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from laterna.errors import LaternaError
from laterna.scenes.image_files import DAMAGE, shape_of

MAX_PIXELS = 89_478_485
"""Pillow's own threshold for a decompression bomb."""
MAX_SIDE = 10_000
"""Longest side in pixels: padding squares it, so a long thin image is a bomb of its own."""

_WHERE_PILLOW_READS = re.compile(r" <_io\.BytesIO object at 0x[0-9a-f]+>")
"""An address that says nothing to a person."""

_SIXTEEN_BIT = frozenset({"I", "I;16", "I;16L", "I;16B", "I;16N"})


class MissingImageError(LaternaError):
    """There is no file of an image's name."""


def load_image(source: Path | bytes, name: str = "") -> Image.Image:
    """Open an image as a person sees it, in RGB, from its file or from the bytes of one.

    The EXIF orientation is applied, transparency shows white, 16-bit grey is scaled to 8 bits,
    and of several frames (GIF, APNG, WebP, TIFF) the first is taken. `name` stands for the bytes
    in errors; a file has its own.

    Raises LaternaError, naming the image, when it is missing (MissingImageError), truncated,
    not an image, of floating-point pixels, or larger than `MAX_PIXELS` or `MAX_SIDE`.
    """
    return _read(source, name, coarse=False)


def check_image(source: Path | bytes, name: str = "") -> None:
    """Read an image to its end to see that it can be; raises as `load_image` does."""
    _read(source, name, coarse=True)


def image_size(source: Path | bytes, name: str = "") -> tuple[int, int]:
    """Return width and height of an image as a person sees it, from the head of its file alone.

    Raises as `load_image` does, but for damage behind the head.
    """
    with _opened(source, name) as image:
        return shape_of(image).turned


def _head(source: Path | bytes) -> bytes:
    if isinstance(source, bytes):
        return source[:64]
    with suppress(OSError, ValueError), source.open("rb") as file:
        return file.read(64)
    return b""


def _read(source: Path | bytes, name: str, *, coarse: bool) -> Image.Image:
    """Read an image; `coarse`: at the lowest resolution that its format can be decoded at."""
    with _opened(source, name) as image:
        if coarse:
            image.draft("RGB", (1, 1))
        return _to_rgb(ImageOps.exif_transpose(image))


@contextmanager
def _opened(source: Path | bytes, name: str) -> Iterator[Image.Image]:
    """Open an image that is not too large, and name it in whatever is wrong with it."""
    if isinstance(source, Path):
        name = str(source)
    try:
        if isinstance(source, Path):
            _refuse_what_is_no_file(source)
        with Image.open(source if isinstance(source, Path) else io.BytesIO(source)) as image:
            _refuse_bomb(image, name)
            yield image
    except FileNotFoundError as error:
        raise MissingImageError(f"{name}: no such image") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise LaternaError(f"{name}: image too large to open: {error}") from error
    except DAMAGE as error:
        reason = _WHERE_PILLOW_READS.sub("", str(error))
        if _head(source).startswith(b"version https://git-lfs"):
            reason = "a pointer of Git LFS, not the image; fetch it with `git lfs pull`"
        raise LaternaError(f"{name}: cannot be read as an image: {reason}") from error


def _refuse_what_is_no_file(path: Path) -> None:
    """Raise LaternaError for a folder, a pipe, a socket or a device, before it is opened: some
    never end, some wait for ever. Raises OSError.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116  (pathlib's is slower)
        raise LaternaError(f"{path}: not a file, but a folder, a pipe, a socket or a device")


def _refuse_bomb(image: Image.Image, name: str) -> None:
    """Raise LaternaError for an image whose pixels would fill the memory, before they do."""
    width, height = image.size
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise LaternaError(
            f"{name}: {width}×{height} pixels is too large to open (at most {MAX_PIXELS:,} pixels "
            f"and {MAX_SIDE:,} a side); make it smaller"
        )


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _SIXTEEN_BIT:
        levels = np.clip(np.asarray(image, dtype=np.int64), 0, 65535)
        seen = ((levels + 128) // 257).astype(np.uint8)
        if (clear := image.info.get("transparency")) is not None:  # the one level that is not
            seen[levels == clear] = 255
        return Image.fromarray(seen).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels have no fixed white; save it with 8 bits")
    if image.has_transparency_data:
        over = image.convert("RGBA")
        white = Image.new("RGBA", over.size, "white")
        return Image.alpha_composite(white, over).convert("RGB")
    return image.convert("RGB")
