"""Vision transformers that transformers carries: CLIP, SigLIP, DINOv2, and BLIP-2's EVA-CLIP."""

from __future__ import annotations

from typing import Any

from transformers import (
    BitImageProcessorPil,
    Blip2VisionModel,
    BlipImageProcessorPil,
    CLIPImageProcessorPil,
    CLIPVisionModel,
    Dinov2Model,
    Dinov2WithRegistersModel,
    SiglipImageProcessorPil,
    SiglipVisionModel,
)

from laterna.model.vision.family import Family, Geometry, square


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
