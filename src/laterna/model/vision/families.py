"""The vision models that Laterna reads, by the exact `model_type` in their config.json."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import (
    BitImageProcessorPil,
    Blip2VisionModel,
    BlipImageProcessorPil,
    CLIPImageProcessorPil,
    CLIPVisionModel,
    ConvNextModel,
    ConvNextV2Model,
    Dinov2Model,
    Dinov2WithRegistersModel,
    ResNetModel,
    SiglipImageProcessorPil,
    SiglipVisionModel,
)

from laterna.errors import LaternaError
from laterna.model.vision.efficientnet import EFFICIENTNET_LITE, VARIANT
from laterna.model.vision.family import Family, Geometry, VisionFamily, square
from laterna.model.vision.timm import TIMM_TYPE, timm_family


def _with_class_token(config: Any, depth: int, side: int) -> Geometry:
    del depth  # every block of a plain transformer has the same width and grid
    return Geometry(int(config.hidden_size), square(config, side, any_size=False), leading=1)


def _without_class_token(config: Any, depth: int, side: int) -> Geometry:
    del depth
    return Geometry(int(config.hidden_size), square(config, side, any_size=False))


def _dinov2(config: Any, depth: int, side: int) -> Geometry:
    del depth
    registers = int(getattr(config, "num_register_tokens", 0))
    grid = square(config, side, any_size=True)
    return Geometry(int(config.hidden_size), grid, leading=1 + registers)


CLIP = Family(
    CLIPVisionModel,
    CLIPImageProcessorPil,
    blocks="encoder.layers",
    geometry=_with_class_token,
    unused=("post_layernorm",),  # it norms the class token alone
)
SIGLIP = Family(
    SiglipVisionModel,
    SiglipImageProcessorPil,
    blocks="encoder.layers",
    geometry=_without_class_token,
    norm="post_layernorm",
    unused=("head",),
)
BLIP2 = Family(
    Blip2VisionModel,
    BlipImageProcessorPil,
    blocks="encoder.layers",
    geometry=_with_class_token,
    norm="post_layernorm",
    inside="vision_model.",
)
DINOV2 = Family(
    Dinov2Model,
    BitImageProcessorPil,
    blocks="encoder.layer",
    geometry=_dinov2,
    norm="layernorm",
    unused=("embeddings.mask_token",),
)
DINOV2_REGISTERS = DINOV2._replace(model=Dinov2WithRegistersModel)


def _resnet(config: Any, depth: int, side: int) -> Geometry:
    # The stem halves the side twice, every stage but the first once; if it is set, the first too.
    halvings = 2 + max(depth - 1, 0) + int(depth > 0 and config.downsample_in_first_stage)
    grid = side
    for _ in range(halvings):
        grid = (grid + 1) // 2  # padded convolutions round up
    return Geometry(_width(config, depth, stem=config.embedding_size), grid)


def _convnext(config: Any, depth: int, side: int) -> Geometry:
    grid = side // int(config.patch_size)
    for _ in range(depth - 1):
        grid //= 2  # unpadded convolutions round down
    return Geometry(_width(config, depth, stem=config.hidden_sizes[0]), grid)


def _width(config: Any, depth: int, *, stem: int) -> int:
    return int(config.hidden_sizes[depth - 1] if depth else stem)


# Their own processors crop after enlarging by `crop_pct`; Laterna squares images itself and
# takes only size, mean and standard deviation from the files, which Bit's processor reads as well.
RESNET = Family(ResNetModel, BitImageProcessorPil, blocks="encoder.stages", geometry=_resnet)
CONVNEXT = Family(
    ConvNextModel,
    BitImageProcessorPil,
    blocks="encoder.stages",
    geometry=_convnext,
    unused=("layernorm",),  # it norms the pooled vector, not the map
)
CONVNEXT_V2 = CONVNEXT._replace(model=ConvNextV2Model)


FAMILIES: dict[str, Family] = {
    "clip": CLIP,
    "clip_vision_model": CLIP,
    "siglip": SIGLIP,
    "siglip_vision_model": SIGLIP,
    "dinov2": DINOV2,
    "dinov2_with_registers": DINOV2_REGISTERS,
    "blip-2": BLIP2,
    "blip_2_vision_model": BLIP2,
    "resnet": RESNET,
    "convnext": CONVNEXT,
    "convnextv2": CONVNEXT_V2,
    VARIANT: EFFICIENTNET_LITE,
}
"""A whole CLIP, SigLIP or BLIP-2 checkpoint gives its vision half.

The SigLIP 2 models of a fixed image size are of type `siglip`.
"""

ON_DEMAND: dict[str, Callable[[str], VisionFamily]] = {TIMM_TYPE: timm_family}
"""Families whose library is imported only for a source of that type."""
SUPPORTED = (*FAMILIES, *ON_DEMAND)

_NAFLEX = (
    "it takes as many patches as an image's own shape asks for (NaFlex), and Laterna's towers "
    "give every square image the same number; use a SigLIP 2 of a fixed size, such as "
    "google/siglip2-so400m-patch14-384, whose type is siglip"
)
REFUSED: dict[str, str] = {"siglip2": _NAFLEX, "siglip2_vision_model": _NAFLEX}
"""Vision models that transformers has and Laterna does not support, with the reason."""


def family_of(model_type: str, source: str) -> VisionFamily:
    """Return the family of a model type; `source` names the model in the error.

    Raises LaternaError for a type that is not in `SUPPORTED`, or whose library is missing.
    """
    if model_type in FAMILIES:
        return FAMILIES[model_type]
    if model_type in ON_DEMAND:
        return ON_DEMAND[model_type](source)
    reason = f" ({REFUSED[model_type]})" if model_type in REFUSED else ""
    raise LaternaError(
        f"{source}: vision models of type {model_type} are not supported{reason}; "
        f"supported types are: {', '.join(SUPPORTED)}"
    )
