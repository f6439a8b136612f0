"""Every family of vision models in its smallest form, with random weights."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from transformers import (
    BitImageProcessorPil,
    Blip2VisionConfig,
    Blip2VisionModel,
    BlipImageProcessorPil,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModel,
    ConvNextConfig,
    ConvNextModel,
    ConvNextV2Config,
    ConvNextV2Model,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    ResNetConfig,
    ResNetModel,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
    SiglipVisionModel,
)

TRANSFORMER: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
    "initializer_range": 0.2,  # BLIP-2's own is 1e-10: differences would not show
}
STAGES: dict[str, Any] = {"hidden_sizes": [8, 12, 20], "depths": [1, 1, 2]}


class Case(NamedTuple):
    """A model, its processor, the tokens before its patches, and its blocks' place."""

    model: Any
    processor: Any
    leading: int
    blocks: str


def make(name: str) -> Case:
    side = {"height": 28, "width": 28}
    crop = {"size": side, "crop_size": side}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        if name == "clip":
            clip = CLIPVisionModel(CLIPVisionConfig(**TRANSFORMER, intermediate_size=48))
            return Case(clip, CLIPImageProcessorPil(**crop), 1, "encoder.layers")
        if name == "siglip":
            siglip = SiglipVisionModel(SiglipVisionConfig(**TRANSFORMER, intermediate_size=48))
            return Case(siglip, SiglipImageProcessorPil(size=side), 0, "encoder.layers")
        if name == "blip2":
            blip = Blip2VisionModel(Blip2VisionConfig(**TRANSFORMER, intermediate_size=48))
            return Case(blip, BlipImageProcessorPil(size=side), 1, "encoder.layers")
        if name == "dinov2":
            # pretrained at 56 pixels and run at 28: the positions are interpolated
            dino = Dinov2Model(Dinov2Config(**{**TRANSFORMER, "image_size": 56}))
            return Case(dino, BitImageProcessorPil(**crop), 1, "encoder.layer")
        if name == "dinov2_with_registers":
            config = Dinov2WithRegistersConfig(**TRANSFORMER, num_register_tokens=4)
            registers = Dinov2WithRegistersModel(config)
            torch.nn.init.normal_(registers.embeddings.register_tokens)
            return Case(registers, BitImageProcessorPil(**crop), 5, "encoder.layer")
        square = BitImageProcessorPil(size={"height": 64, "width": 64}, do_center_crop=False)
        if name == "resnet":
            resnet = ResNetModel(ResNetConfig(**STAGES, embedding_size=6, layer_type="basic"))
            return Case(resnet.eval(), square, 0, "encoder.stages")
        if name == "convnext":
            convnext = ConvNextModel(ConvNextConfig(**STAGES, num_stages=3))
            return Case(convnext, square, 0, "encoder.stages")
        assert name == "convnextv2"
        second = ConvNextV2Model(ConvNextV2Config(**STAGES, num_stages=3))
        return Case(second, square, 0, "encoder.stages")


TRANSFORMERS = ["clip", "siglip", "blip2", "dinov2", "dinov2_with_registers"]
BACKBONES = ["resnet", "convnext", "convnextv2"]


@pytest.fixture
def case(request: pytest.FixtureRequest) -> Case:
    """The case that a test names by `indirect=True`."""
    made = make(request.param)
    made.model.eval()
    return made
