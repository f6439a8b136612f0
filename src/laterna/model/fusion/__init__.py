"""How image tokens meet the language model: the only code that knows.

A fusion is one file in this folder and one line in `FUSIONS`.
"""

from __future__ import annotations

from typing import Any

from msgspec.structs import fields

from laterna.errors import LaternaError
from laterna.model.fusion.base import Fusion, FusionKind
from laterna.model.fusion.cross_attention import CrossAttentionFusion
from laterna.model.fusion.prefix import PrefixFusion
from laterna.recipe import FusionSettings

FUSIONS: dict[str, FusionKind] = {"prefix": PrefixFusion, "cross_attention": CrossAttentionFusion}
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
    return fusion_kind(settings)(settings, d_vision, language)


__all__ = ["FUSIONS", "Fusion", "FusionKind", "PrefixFusion", "build_fusion", "fusion_kind"]
