"""Picture files become pixels: opened with care, made square or tiled, and normalised.

`opening` (a file or bytes to what a person sees) · `tiling` (AnyRes: which tiles a picture of a
size has, and which of their tokens stay) · `fitting` (opened pictures to an encoder's pixels).
"""

from laterna.data.pictures.fitting import (
    CLIP_MEAN_COLOUR,
    PicturePreparer,
    blank,
    pad_to_square,
)
from laterna.data.pictures.opening import (
    MAX_PIXELS,
    MAX_SIDE,
    MissingPictureError,
    check_picture,
    load_picture,
    picture_size,
)

__all__ = [
    "CLIP_MEAN_COLOUR",
    "MAX_PIXELS",
    "MAX_SIDE",
    "MissingPictureError",
    "PicturePreparer",
    "blank",
    "check_picture",
    "load_picture",
    "pad_to_square",
    "picture_size",
]
