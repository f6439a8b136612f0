"""Validator into image files for their shape alone, where annotations have their images at hand."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from PIL import ExifTags, Image, TiffImagePlugin

from laterna.scenes.orientation import TURNS, Shape

DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
"""What Pillow raises for files that it cannot open."""


def shape_of(image: Image.Image) -> Shape:
    """Return the shape of an image that is opened and not yet loaded."""
    width, height = image.size
    if isinstance(image, TiffImagePlugin.TiffImageFile):  # its size is turned by Pillow already
        tags = image.tag_v2
        width = int(tags[TiffImagePlugin.IMAGEWIDTH])
        height = int(tags[TiffImagePlugin.IMAGELENGTH])
    orientation = image.getexif().get(ExifTags.Base.Orientation)
    return Shape(width, height, orientation if orientation in TURNS else 1)


class ImageFolders:
    """Finds the images of a source in the first of several folders that has them."""

    def __init__(self, folders: Iterable[Path]) -> None:
        """Look nowhere else."""
        self._folders = [folder for folder in dict.fromkeys(folders) if folder.is_dir()]

    def shape(self, name: str) -> Shape | None:
        """Return the shape of an image; None where it is not there or cannot be opened."""
        inside = PurePosixPath(name)
        if not name or "\x00" in name or inside.is_absolute() or ".." in inside.parts:
            return None
        for folder in self._folders:
            path = folder / inside
            try:
                if not path.is_file():
                    continue
                with Image.open(path) as image:
                    found = shape_of(image)
            except DAMAGE:
                continue
            # the next image most likely lies in the same folder
            self._folders.remove(folder)
            self._folders.insert(0, folder)
            return found
        return None
