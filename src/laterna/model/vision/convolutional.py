"""Convolutional backbones that transformers carries: ResNet, ConvNeXt and ConvNeXt V2.

Their feature map (b, d, h, w) becomes features (b, h·w, d), row by row. The hidden states are
the stem's output and each stage's, so that layer -1 is the last and coarsest map.
"""

from __future__ import annotations

from typing import Any

from transformers import BitImageProcessorPil, ConvNextModel, ConvNextV2Model, ResNetModel

from laterna.model.vision.family import Family, Geometry


def _resnet(config: Any, depth: int, side: int) -> Geometry:
    # The stem halves twice, and so does every stage but the first, unless that is told to as well.
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


# Their own processors crop after enlarging by `crop_pct`; Laterna squares pictures itself and
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
