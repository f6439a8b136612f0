"""How image tokens meet the language model: the only code that knows.

A fusion is one file in this folder and one line in `FUSIONS`.
"""

from __future__ import annotations

from typing import Any

from msgspec.structs import fields

from laterna.errors import LaternaError
from laterna.model.fusion.base import Fusion, FusionKind
from laterna.model.fusion.cross_attention import CrossAttentionFusion
from laterna.model.fusion.encoder_decoder import EncoderDecoderFusion
from laterna.model.fusion.prefix import PrefixFusion
from laterna.model.language.causal import ENCODER_DECODERS, encodes
from laterna.recipe import FusionSettings

FUSIONS: dict[str, FusionKind] = {
    "prefix": PrefixFusion,
    "cross_attention": CrossAttentionFusion,
    "encoder_decoder": EncoderDecoderFusion,
}
"""Name in recipes to the fusion's class."""


def fusion_kind(settings: FusionSettings) -> FusionKind:
    """Return the fusion that a recipe names.

    Raises LaternaError for an unknown kind, and for settings of another kind.
    """
    if settings.kind not in FUSIONS:
        known = ", ".join(FUSIONS)
        raise LaternaError(f"fusion.kind = {settings.kind!r}: no such kind; use one of {known}")
    kind = FUSIONS[settings.kind]
    for field in fields(settings):
        if (
            field.name not in ("kind", kind.table)
            and getattr(settings, field.name) != field.default
        ):
            raise LaternaError(
                f"[fusion.{field.name}] is for fusion.kind = {field.name!r}, which is "
                f"{settings.kind!r}: leave it out, or set it"
            )
    return kind


def build_fusion(settings: FusionSettings, d_vision: int, language: Any) -> Fusion:
    """Build the fusion that a recipe names, with first weights from torch's generator.

    Raises LaternaError as `fusion_kind` does, and for what does not fit the language model.
    """
    kind = fusion_kind(settings)
    if kind.encodes != encodes(language.config):
        known, have = ", ".join(ENCODER_DECODERS), language.config.model_type
        raise LaternaError(
            f"fusion.kind = {settings.kind!r} with a language model of type {have!r}: "
            f"'encoder_decoder' is for {known}, and the other kinds are for causal models; set "
            "another fusion.kind, or another language.source"
        )
    return kind(settings, d_vision, language)


__all__ = ["FUSIONS", "Fusion", "FusionKind", "PrefixFusion", "build_fusion", "fusion_kind"]
