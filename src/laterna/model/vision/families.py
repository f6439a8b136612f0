"""Which vision models Laterna reads, by the exact `model_type` in their config.json."""

from __future__ import annotations

from collections.abc import Callable

from laterna.errors import LaternaError
from laterna.model.vision.convolutional import CONVNEXT, CONVNEXT_V2, RESNET
from laterna.model.vision.efficientnet import EFFICIENTNET_LITE, VARIANT
from laterna.model.vision.family import Family, VisionFamily
from laterna.model.vision.timm import TIMM_TYPE, timm_family
from laterna.model.vision.transformer import BLIP2, CLIP, DINOV2, DINOV2_REGISTERS, SIGLIP

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

The SigLIP 2 models of a fixed picture size are of type `siglip`.
"""

ON_DEMAND: dict[str, Callable[[str], VisionFamily]] = {TIMM_TYPE: timm_family}
"""Families whose library is imported only for a source that is of them, and named in its errors."""
SUPPORTED = (*FAMILIES, *ON_DEMAND)

_NAFLEX = (
    "it takes as many patches as a picture's own shape asks for (NaFlex), and Laterna's towers "
    "give every square picture the same number; use a SigLIP 2 of a fixed size, such as "
    "google/siglip2-so400m-patch14-384, whose type is siglip"
)
REFUSED: dict[str, str] = {"siglip2": _NAFLEX, "siglip2_vision_model": _NAFLEX}
"""Vision models that transformers carries and Laterna does not, each with the reason."""


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
