"""A family of vision models: how it is read, cut to the layers that run, and measured.

Shapes: b images · c channels · h, w pixels · n features an image · d width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

from laterna.errors import LaternaError


class Geometry(NamedTuple):
    """The shape of an encoder's features, known from its configuration alone."""

    width: int
    """Width of a feature (d)."""
    grid: int
    """Patches along one side of an image."""
    leading: int = 0
    """Tokens before the patches: the class token first, then registers."""


class Wanted(NamedTuple):
    """Which features are wanted of an encoder, as `[vision]` says, and of what images."""

    layer: int
    class_token: bool
    final_norm: bool
    side: int
    """Of the prepared images, in pixels."""


class Cut(NamedTuple):
    """An encoder that runs no further than the features that are wanted of it."""

    shape: Geometry
    aside: dict[str, Tensor]
    """The weights that were removed, by their names in the whole model."""
    layers: tuple[tuple[str, ...], ...]
    """The names of each running layer's modules, in order; empty where layers are not known."""
    run: Callable[[Any, Tensor], Tensor]
    """From the model and pixels (b, c, h, w), tokens (b, leading + n, d) or a map (b, d, h, w)."""
    closing: tuple[str, ...] = ()
    """Modules that run after the last layer, and train with it."""


class VisionFamily(Protocol):
    """What loading and the tower need of a family."""

    @property
    def model(self) -> Any:
        """The transformers class that reads the encoder."""

    @property
    def processor(self) -> Any:
        """The Hugging Face image processor, its Pillow version: no torchvision."""

    @property
    def inside(self) -> str:
        """Prefix of the encoder's weights in a whole checkpoint that transformers does not know."""

    def read_config(self, source: str) -> Any:
        """Return the encoder's configuration from a folder or hub id."""

    def read_processor(self, source: str, config: Any) -> Any:
        """Return the image processor of a folder or hub id; OSError where it has none."""

    def cut(self, model: Any, wanted: Wanted) -> Cut:
        """Remove from a model what the wanted features do not need.

        Raises LaternaError when it does not have them.
        """


class Family(NamedTuple):
    """One family of vision models; a line of `FAMILIES` says which `model_type`s are of it."""

    model: Any
    """The transformers class that reads the encoder, from a whole checkpoint too."""
    processor: Any
    """The Hugging Face image processor, its Pillow version: no torchvision."""
    blocks: str
    """Name of the module list whose outputs are the hidden states."""
    geometry: Callable[[Any, int, int], Geometry]
    """From the configuration, the number of blocks run and the image's side in pixels."""
    norm: str = ""
    """Name of the layer norm that closes the encoder; empty: none that fits the features."""
    head: tuple[str, ...] = ()
    """Modules that always run after the last block, and train with it."""
    unused: tuple[str, ...] = ()
    """Modules and parameters that no feature depends on, where a model has them."""
    inside: str = ""
    """Prefix of the encoder's weights in a whole checkpoint that transformers does not know."""
    stops: bool = True
    """Whether the model can stop before its last block."""

    def read_config(self, source: str) -> Any:
        """Read `config.json`, of a whole checkpoint its vision half."""
        return self.model.config_class.from_pretrained(source)

    def read_processor(self, source: str, config: Any) -> Any:
        """Read `preprocessor_config.json`."""
        del config
        return self.processor.from_pretrained(source)

    def cut(self, model: Any, wanted: Wanted) -> Cut:
        """Cut the model after the block whose output is wanted."""
        depth = _depth(wanted.layer, len(model.get_submodule(self.blocks)), stops=self.stops)
        shape = self.geometry(model.config, depth, wanted.side)
        if wanted.class_token and not shape.leading:
            raise LaternaError("vision.class_token = true: this encoder has no class token")
        if wanted.final_norm and not self.norm:
            raise LaternaError("vision.final_norm = true: this encoder has no final layer norm")
        norm = (self.norm,) if self.norm else ()
        unused = self.unused + (() if wanted.final_norm else norm)
        return Cut(
            shape=shape,
            aside=_set_aside(model, self.blocks, depth, unused),
            layers=tuple((f"{self.blocks}.{index}",) for index in range(depth)),
            run=_last_hidden_state,
            closing=(norm if wanted.final_norm else ()) + self.head,
        )


def _last_hidden_state(model: Any, pixels_bchw: Tensor) -> Tensor:
    states: Tensor = model(pixel_values=pixels_bchw).last_hidden_state
    return states


def _depth(layer: int, count: int, *, stops: bool) -> int:
    """Return how many of `count` blocks run for a hidden state."""
    states = count + 1
    if not stops and layer not in (-1, count):
        raise LaternaError(
            f"vision.layer = {layer}: this encoder gives only its last feature map; use -1"
        )
    if not -states <= layer < states:
        raise LaternaError(
            f"vision.layer = {layer}: this encoder has {states} hidden states, "
            f"use {-states} to {states - 1}"
        )
    return layer % states


def _set_aside(model: Any, blocks: str, depth: int, unused: tuple[str, ...]) -> dict[str, Tensor]:
    """Remove from a model what no feature needs; return the removed weights by their names."""
    every = model.state_dict()
    _replace(model, blocks, model.get_submodule(blocks)[:depth])
    for name in unused:
        holder = model.get_submodule(name.rpartition(".")[0])
        found = getattr(holder, name.rpartition(".")[2], None)
        if found is not None:
            _replace(model, name, nn.Identity() if isinstance(found, nn.Module) else None)
    return removed(every, model)


def removed(every: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Return those of `every` weight of a model that it no longer has."""
    left = model.state_dict().keys()
    return {name: weight for name, weight in every.items() if name not in left}


def _replace(model: Any, name: str, module: nn.Module | None) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)


def square(config: Any, side: int, *, any_size: bool) -> int:
    """Return the patches along a side of an image; `any_size`: positions are interpolated.

    Raises LaternaError when the encoder cannot read images of that side.
    """
    patch = int(config.patch_size)
    if any_size and side % patch:
        raise LaternaError(
            f"images of {side}×{side} pixels are not a multiple of the patch size {patch}; "
            f"set vision.image_size to a multiple of {patch}"
        )
    if not any_size and side != int(config.image_size):
        raise LaternaError(
            f"the images are prepared at {side}×{side} pixels, but this encoder reads "
            f"{config.image_size}×{config.image_size}; leave vision.image_size out and see that "
            "preprocessor_config.json belongs to the encoder"
        )
    return side // patch
