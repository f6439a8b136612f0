"""What Laterna knows of one family of vision models: how it is read, cut and measured.

Shapes: b pictures · c channels · h, w pixels · n features a picture · d width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from laterna.errors import LaternaError


class Geometry(NamedTuple):
    """The shape of an encoder's features, known from its configuration alone."""

    width: int
    """Width of a feature (d)."""
    grid: int
    """Patches along one side of a picture."""
    leading: int = 0
    """Tokens before the patches: the class token first, then registers."""


class Family(NamedTuple):
    """One family of vision models; a line of `FAMILIES` says which `model_type`s are of it."""

    model: Any
    """The transformers class that reads the encoder, from a whole checkpoint too."""
    processor: Any
    """The Hugging Face picture processor, its Pillow version: no torchvision."""
    blocks: str
    """Name of the module list whose outputs are the hidden states."""
    geometry: Callable[[Any, int, int], Geometry]
    """From the configuration, the number of blocks run and the picture's side in pixels."""
    norm: str = ""
    """Name of the layer norm that closes the encoder; empty: none that fits the features."""
    head: tuple[str, ...] = ()
    """Modules that always run after the last block, and train with it."""
    unused: tuple[str, ...] = ()
    """Modules and parameters that no feature depends on, where a model has them."""
    inside: str = ""
    """Prefix of the encoder's weights in a whole checkpoint, if transformers knows it not."""
    cut: bool = True
    """Whether the model can stop before its last block."""


def square(config: Any, side: int, *, any_size: bool) -> int:
    """Return the patches along a side of a picture; `any_size`: positions are interpolated.

    Raises LaternaError when the encoder cannot read pictures of that side.
    """
    patch = int(config.patch_size)
    if any_size and side % patch:
        raise LaternaError(
            f"pictures of {side}×{side} pixels are not whole patches of {patch}; "
            f"set vision.image_size to a multiple of {patch}"
        )
    if not any_size and side != int(config.image_size):
        raise LaternaError(
            f"the pictures are prepared at {side}×{side} pixels, but this encoder reads "
            f"{config.image_size}×{config.image_size}; leave vision.image_size out and see that "
            "preprocessor_config.json belongs to the encoder"
        )
    return side // patch
