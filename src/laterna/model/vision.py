"""The vision tower: pictures in, patch features out.

Shapes: b pictures · c channels · h, w pixels · n features a picture · d width.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AutoConfig, CLIPImageProcessorPil, CLIPVisionModel

from laterna.errors import LaternaError
from laterna.model.adapters import own_weights
from laterna.model.builtin import resolve
from laterna.model.pretrained import load_weights, quiet_transformers, read_part
from laterna.recipe import VisionSettings


class Family(NamedTuple):
    """How one family of vision models is read, and cut to the layers that are used."""

    model: Any
    processor: Any
    trim: Callable[[Any, int], dict[str, nn.Module]]
    """Keeps the first layers in the model and returns the removed modules by their names."""


def _trim_clip(model: Any, depth: int) -> dict[str, nn.Module]:
    layers = model.encoder.layers
    removed: dict[str, nn.Module] = {
        f"encoder.layers.{index}": layers[index] for index in range(depth, len(layers))
    }
    removed["post_layernorm"] = model.post_layernorm
    model.encoder.layers = layers[:depth]
    model.post_layernorm = nn.Identity()
    return removed


_CLIP = Family(CLIPVisionModel, CLIPImageProcessorPil, _trim_clip)

FAMILIES: dict[str, Family] = {"clip": _CLIP, "clip_vision_model": _CLIP}
"""By `model_type` in config.json; a whole CLIP checkpoint gives its vision half."""


class VisionTower(nn.Module):
    """A Hugging Face vision model that runs only up to the hidden state that is used.

    The layers behind the used one would be computed for nothing (LLaVA's layer -2 wastes one) and
    get no gradient, which breaks DDP. So they are taken out of the module, but kept aside: they
    are neither trained nor moved, and `save` puts them back, so what is saved is a complete tower
    that any other program loads.

    Attributes: `width` (d) and `patches` (n features a picture, class token included if kept),
    both known before running; `processor`, the Hugging Face picture processor.
    """

    def __init__(self, model: Any, processor: Any, *, layer: int, class_token: bool) -> None:
        super().__init__()
        config = model.config
        states = int(config.num_hidden_layers) + 1
        if not -states <= layer < states:
            raise LaternaError(
                f"vision.layer = {layer}: this encoder has {states} hidden states, "
                f"use {-states} to {states - 1}"
            )
        family = _family(str(config.model_type), "the vision model")
        self._removed = tuple(family.trim(model, layer % states).items())
        self.model = model
        self.processor = processor
        self.layer = layer
        self.class_token = class_token
        self.width = int(config.hidden_size)
        self.patches = (int(config.image_size) // int(config.patch_size)) ** 2 + int(class_token)

    def forward(self, pixels_bchw: Tensor) -> Tensor:
        """Return the features (b, n, d) of prepared pictures; without gradient when frozen."""
        trained = any(weight.requires_grad for weight in self.parameters())
        with torch.set_grad_enabled(trained and torch.is_grad_enabled()):
            hidden: Tensor = self.model(pixel_values=pixels_bchw).last_hidden_state
        return hidden if self.class_token else hidden[:, 1:]

    def weights(self) -> dict[str, Tensor]:
        """Return every weight by its Hugging Face name, unused layers included, no adapters."""
        weights = own_weights(self.model)
        for name, module in self._removed:
            weights.update({f"{name}.{key}": value for key, value in module.state_dict().items()})
        return weights

    def save(self, folder: Path) -> None:
        """Write the complete tower and its picture processor as a Hugging Face folder."""
        with quiet_transformers():
            self.model.save_pretrained(folder, state_dict=self.weights())
            self.processor.save_pretrained(folder)


def load_vision(settings: VisionSettings, folder: Path | None = None) -> VisionTower:
    """Load the tower from its source, or from the folder where a checkpoint holds it.

    Raises LaternaError when it is missing, incomplete, or of a family not in `FAMILIES`.
    """
    source = str(folder) if folder else resolve(settings.source)
    config = read_part(
        lambda: AutoConfig.from_pretrained(source), source=source, what="vision encoder"
    )
    family = _family(str(config.model_type), source)
    model = load_weights(family.model, source, what="vision encoder")
    processor = read_part(
        lambda: family.processor.from_pretrained(source), source=source, what="picture processor"
    )
    return VisionTower(model, processor, layer=settings.layer, class_token=settings.class_token)


def _family(model_type: str, source: str) -> Family:
    if model_type not in FAMILIES:
        raise LaternaError(
            f"{source}: vision models of type {model_type} are not supported; "
            f"supported types are: {', '.join(FAMILIES)}"
        )
    return FAMILIES[model_type]
