"""Vision towers from their sources: a Hugging Face folder or hub id, a shipped model, a package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from laterna.errors import LaternaError
from laterna.model.builtin import resolve
from laterna.model.pretrained import load_weights, read_part, read_tensors
from laterna.model.vision.efficientnet import VARIANT, read_efficientnet_lite0
from laterna.model.vision.families import family_of
from laterna.model.vision.family import Family
from laterna.model.vision.tower import VisionTower
from laterna.recipe import VisionSettings

PREFIX = "package:"
PACKAGES: dict[str, Callable[[int | None], tuple[Any, Any]]] = {VARIANT: read_efficientnet_lite0}
"""Encoders whose weights a Python package carries, by the name after `package:`."""


def load_vision(settings: VisionSettings, folder: Path | None = None) -> VisionTower:
    """Load the tower from its source, or from the folder where a checkpoint holds it.

    Raises LaternaError when it is missing, incomplete, of a family not in `FAMILIES`, or cannot
    give the features that the settings ask for.
    """
    if folder is None and settings.source.startswith(PREFIX):
        model, processor = _from_package(settings)
    else:
        model, processor = _from_files(str(folder) if folder else resolve(settings.source))
    if settings.image_size is not None:
        square = {"height": settings.image_size, "width": settings.image_size}
        processor.size = square
        processor.do_center_crop = False
    try:
        return VisionTower(
            model,
            processor,
            layer=settings.layer,
            class_token=settings.class_token,
            final_norm=settings.final_norm,
        )
    except LaternaError as error:
        raise LaternaError(f"{settings.source}: {error}") from error


def _from_files(source: str) -> tuple[Any, Any]:
    config = read_part(
        lambda: AutoConfig.from_pretrained(source), source=source, what="vision encoder"
    )
    family = family_of(str(config.model_type), source)
    model = _read_model(family, config, source)
    processor = read_part(
        lambda: family.processor.from_pretrained(source), source=source, what="picture processor"
    )
    return model, processor


def _read_model(family: Family, config: Any, source: str) -> Any:
    what = "vision encoder"
    if not family.inside or not hasattr(config, "vision_config"):
        return load_weights(family.model, source, what=what)
    # Read by hand, so that of a whole checkpoint the language model is not even fetched.
    tensors = read_tensors(source, (family.inside,), what=what)
    weights = {name.removeprefix(family.inside): tensor for name, tensor in tensors.items()}
    return load_weights(
        family.model, source, what=what, weights=weights, config=config.vision_config
    )


def _from_package(settings: VisionSettings) -> tuple[Any, Any]:
    name = settings.source.removeprefix(PREFIX)
    if name not in PACKAGES:
        known = ", ".join(PREFIX + key for key in PACKAGES)
        raise LaternaError(f"{settings.source}: no such packaged encoder; use one of {known}")
    return PACKAGES[name](settings.image_size)
