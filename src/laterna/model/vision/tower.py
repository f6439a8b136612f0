"""The vision tower: prepared images in, features out, by as many layers as they need.

It is read from a Hugging Face folder or hub id, a shipped model, or a package.

Shapes: b images · c channels · h, w pixels · n features an image · d width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig

from laterna.data.images.fitting import ImagePreparer
from laterna.errors import LaternaError
from laterna.model.language.adapters import own_weights
from laterna.model.pretrained import (
    load_weights,
    no_config,
    quiet_transformers,
    read_part,
    read_tensors,
)
from laterna.model.sources import PACKAGE, package_file, packaged, resolve
from laterna.model.vision.efficientnet import SIDES, efficientnet_lite
from laterna.model.vision.families import family_of
from laterna.model.vision.family import VisionFamily, Wanted
from laterna.model.vision.mixing import FeatureMixing
from laterna.model.weight_files import require_finite
from laterna.recipe import VisionSettings


class VisionTower(nn.Module):
    """A Hugging Face vision model that runs only up to the hidden state that is used.

    The layers after the used one would be computed for nothing (LLaVA's layer -2 wastes one) and
    get no gradient, which breaks DDP. So they are removed from the module, but kept: they are
    neither trained nor moved, and `save` puts them back, so what is saved is a complete tower that
    any other program loads. Pooling heads and mask tokens are kept in the same way.

    Attributes: `width` (d) and `patches` (n features an image, class token included if kept),
    both known before running, on the meta device too; `layers`, the number that `last_layers` has;
    `processor`, the Hugging Face image processor; `layer`, `class_token` and `final_norm`, which
    features it returns.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        layer: int,
        class_token: bool = False,
        final_norm: bool = False,
        mixing: float = 0.0,
    ) -> None:
        """Raise LaternaError when the encoder lacks that layer, token, norm or size."""
        super().__init__()
        family = family_of(str(model.config.model_type), "the vision model")
        side = ImagePreparer(processor, "resize").size
        cut = family.cut(model, Wanted(layer, class_token, final_norm, side))
        self._cut, self._aside = cut._replace(aside={}), cut.aside
        self.model = model
        self.processor = processor
        self.layer = layer
        self.class_token = class_token
        self.final_norm = final_norm
        self.width = cut.shape.width
        self.patches = cut.shape.grid**2 + int(class_token)
        self.layers = len(cut.layers)
        self.mixing = FeatureMixing(self.width, mixing) if mixing else None

    def forward(self, pixels_bchw: Tensor) -> Tensor:
        """Return the features (b, n, d) of prepared images.

        Frozen layers keep no graph: the whole tower where nothing of it trains, else all that runs
        before the first trained layer.
        """
        trained = any(weight.requires_grad for weight in self.parameters())
        with torch.set_grad_enabled(trained and torch.is_grad_enabled()):
            pixels_bchw = pixels_bchw.to(self.model.dtype)
            states = self._cut.run(self.model, pixels_bchw)
        features_bnd = self._features(states)
        return features_bnd if self.mixing is None else self.mixing(features_bnd)

    def _features(self, states: Tensor) -> Tensor:
        if states.ndim == 4:  # a feature map (b, d, h, w)
            return states.flatten(2).transpose(1, 2)
        patches_bnd = states[:, self._cut.shape.leading :]
        return torch.cat([states[:, :1], patches_bnd], dim=1) if self.class_token else patches_bnd

    def _apply(self, fn: Any, recurse: bool = True) -> VisionTower:
        """Move or cast what runs; where that makes new tensors, copy the removed weights.

        Weights are views of one memory-mapped file. When the running ones are copied, the few
        removed ones would keep the whole file in memory.
        """
        place = next(self.parameters()).data_ptr()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if next(self.parameters()).data_ptr() != place:
            self._aside = {name: weight.clone() for name, weight in self._aside.items()}
        return self

    def train(self, mode: bool = True) -> VisionTower:
        """Set training mode where weights train; frozen modules keep theirs for inference.

        A frozen batch norm in training mode would change the features.
        """
        super().train(mode)
        for module in self.modules():
            weights = list(module.parameters())
            if mode and weights and not any(weight.requires_grad for weight in weights):
                module.eval()
        return self

    def last_layers(self, n: int, *, closing: bool = True) -> list[nn.Module]:
        """Return the last `n` layers that run, and with `closing` what runs after them.

        Raises LaternaError when fewer layers run.
        """
        if not self.layers:
            raise LaternaError(
                f"the last {n} layers of the vision encoder: for vision.layer = {self.layer} it "
                "runs none that can be told apart; use `full` or `frozen`"
            )
        if not 1 <= n <= self.layers:
            raise LaternaError(
                f"the last {n} layers of the vision encoder: it runs {self.layers} for "
                f"vision.layer = {self.layer}, use 1 to {self.layers}"
            )
        names = list(chain.from_iterable(self._cut.layers[-n:]))
        names += self._cut.closing if closing else ()
        return [self.model.get_submodule(name) for name in names]

    def weights(self) -> dict[str, Tensor]:
        """Return every weight by its Hugging Face name, also those removed, without adapters."""
        return {**own_weights(self.model), **self._aside}

    def replace_weights(self, weights: dict[str, Tensor]) -> None:
        """Take other weights, by their Hugging Face names; those removed may be left out.

        Raises LaternaError when one that runs is missing, or one has no place.
        """
        known, running = self.weights(), own_weights(self.model)
        wrong = sorted((running.keys() - weights.keys()) | (weights.keys() - known.keys()))
        wrong += [name for name in weights.keys() & known.keys()
                  if weights[name].shape != known[name].shape]  # fmt: skip
        if wrong:
            raise LaternaError(
                f"{len(wrong)} weights are not this vision encoder's, the first is {wrong[0]}"
            )
        with torch.no_grad():
            for name, weight in weights.items():
                known[name].copy_(weight)

    def save(self, folder: Path) -> None:
        """Write the complete tower and its image processor as a Hugging Face folder."""
        with quiet_transformers():
            self.model.save_pretrained(folder, state_dict=self.weights())
            self.processor.save_pretrained(folder)


PACKAGES: dict[str, Callable[[int | None, Path | None], tuple[Any, Any]]] = {
    PACKAGE + variant: partial(efficientnet_lite, variant) for variant in SIDES
}
"""Source to a function from the side of the images (None: its own) and the file of weights (None:
without) to the model and the processor."""


def load_vision(settings: VisionSettings, folder: Path | None = None) -> VisionTower:
    """Load the tower from its source, or from the folder where a checkpoint holds it.

    Raises LaternaError when it is missing, incomplete or not finite, of a family not in `FAMILIES`,
    or does not have the features that the settings want.
    """
    if folder is None and settings.source.startswith(PACKAGE):
        weights = package_file(settings.source, "vision")
        model, processor = PACKAGES[settings.source](settings.image_size, weights)
    else:
        model, processor = _from_files(str(folder) if folder else resolve(settings.source))
    if folder is None:
        require_finite(model, settings.source)
    return _tower(model, processor, settings)


def blank_vision(settings: VisionSettings) -> VisionTower:
    """Build the tower from its configuration alone, without weights, on torch's default device.

    Where there is no `preprocessor_config.json`, the images are as large as `config.json` says.
    Raises LaternaError when there is no configuration, or neither file says how large.
    """
    if settings.source.startswith(PACKAGE):
        packaged(settings.source, "vision")
        model, processor = PACKAGES[settings.source](settings.image_size, None)
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
    except OSError:  # missing, as in a folder with only a config.json
        side = side or getattr(config, "image_size", None)
    if side is None:
        raise LaternaError(
            f"{source}: neither a preprocessor_config.json nor config.json says how large its "
            "images are; set vision.image_size"
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
            mixing=settings.mixing,
        )
    except LaternaError as error:
        raise LaternaError(f"{settings.source}: {error}") from error


def _from_files(source: str) -> tuple[Any, Any]:
    what = "vision encoder"
    family = family_of(read_part(lambda: _model_type(source), source=source, what=what), source)
    model = _read_model(family, source, what)
    processor = read_part(
        lambda: family.read_processor(source, model.config), source=source, what="image processor"
    )
    return model, processor


def _model_type(source: str) -> str:
    """Return the `model_type` of config.json; for timm's own form, `timm_wrapper`.

    Only JSON is read: the class of a type may need a library that is not installed.
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
    # Tensor by tensor, so that the language model of a whole checkpoint is not fetched.
    tensors = read_tensors(source, (family.inside,), what=what)
    weights = {name.removeprefix(family.inside): tensor for name, tensor in tensors.items()}
    return load_weights(
        family.model, source, what=what, weights=weights, config=config.vision_config
    )
