"""Vision towers from their sources: a Hugging Face folder or hub id, a shipped model, a package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from laterna.errors import LaternaError
from laterna.model.pretrained import (
    load_weights,
    no_config,
    quiet_transformers,
    read_part,
    read_tensors,
)
from laterna.model.sources import PACKAGE, package_file, packaged, resolve
from laterna.model.vision.efficientnet import (
    VARIANT,
    blank_efficientnet_lite0,
    fill_efficientnet_lite0,
)
from laterna.model.vision.families import family_of
from laterna.model.vision.family import VisionFamily
from laterna.model.vision.tower import VisionTower
from laterna.recipe import VisionSettings

BLANK: dict[str, Callable[[int | None], tuple[Any, Any]]] = {VARIANT: blank_efficientnet_lite0}
"""Encoders whose weights a Python package carries, by the name after `package:`: from the side of
the pictures (None: its own), the model without weights and the processor."""
FILL: dict[str, Callable[[Any, Path], None]] = {VARIANT: fill_efficientnet_lite0}
"""Gives such a model the weights in its package's file."""


def load_vision(settings: VisionSettings, folder: Path | None = None) -> VisionTower:
    """Load the tower from its source, or from the folder where a checkpoint holds it.

    Raises LaternaError when it is missing, incomplete, of a family not in `FAMILIES`, or cannot
    give the features that the settings ask for.
    """
    if folder is None and settings.source.startswith(PACKAGE):
        weights = package_file(settings.source, "vision")
        name = settings.source.removeprefix(PACKAGE)
        model, processor = BLANK[name](settings.image_size)
        FILL[name](model, weights)
    else:
        model, processor = _from_files(str(folder) if folder else resolve(settings.source))
    return _tower(model, processor, settings)


def blank_vision(settings: VisionSettings) -> VisionTower:
    """Build the tower from its configuration alone, without weights, on torch's default device.

    Where there is no `preprocessor_config.json`, the pictures are as large as `config.json` says.
    Raises LaternaError when there is no configuration, or neither file says how large.
    """
    if settings.source.startswith(PACKAGE):
        packaged(settings.source, "vision")
        model, processor = BLANK[settings.source.removeprefix(PACKAGE)](settings.image_size)
        return _tower(model, processor, settings)
    source = resolve(settings.source)
    try:
        with quiet_transformers():
            family = family_of(_model_type(source), source)
            config = family.read_config(source)
    except (OSError, ValueError, KeyError) as error:
        raise no_config(source, "vision encoder", error) from error
    model = read_part(lambda: family.model(config).eval(), source=source, what="vision encoder")
    return _tower(model, _processor(family, config, source, settings.image_size), settings)


def _processor(family: VisionFamily, config: Any, source: str, side: int | None) -> Any:
    try:
        with quiet_transformers():
            return family.read_processor(source, config)
    except OSError:  # not there, as in a folder of config.json alone
        side = side or getattr(config, "image_size", None)
    if side is None:
        raise LaternaError(
            f"{source}: neither a preprocessor_config.json nor config.json says how large its "
            "pictures are; set vision.image_size"
        )
    size = {"height": side, "width": side}
    return family.processor(size=size, crop_size=size, do_center_crop=False)


def _tower(model: Any, processor: Any, settings: VisionSettings) -> VisionTower:
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
    what = "vision encoder"
    family = family_of(read_part(lambda: _model_type(source), source=source, what=what), source)
    model = _read_model(family, source, what)
    processor = read_part(
        lambda: family.read_processor(source, model.config), source=source, what="picture processor"
    )
    return model, processor


def _model_type(source: str) -> str:
    """Return the `model_type` of config.json; a config of timm's own form is of `timm_wrapper`.

    Nothing but JSON is read: the class of a type may need a library that is not there.
    """
    found, _ = PreTrainedConfig.get_config_dict(source)
    if "model_type" not in found:
        raise ValueError("config.json states no model_type")
    return str(found["model_type"])


def _read_model(family: VisionFamily, source: str, what: str) -> Any:
    if not family.inside:
        config = read_part(lambda: family.read_config(source), source=source, what=what)
        return load_weights(family.model, source, what=what, config=config)
    config = read_part(lambda: AutoConfig.from_pretrained(source), source=source, what=what)
    if not hasattr(config, "vision_config"):
        return load_weights(family.model, source, what=what)
    # Read by hand, so that of a whole checkpoint the language model is not even fetched.
    tensors = read_tensors(source, (family.inside,), what=what)
    weights = {name.removeprefix(family.inside): tensor for name, tensor in tensors.items()}
    return load_weights(
        family.model, source, what=what, weights=weights, config=config.vision_config
    )
