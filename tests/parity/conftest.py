"""Assistants with the connectors that others have too, and what holds two against each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image

from laterna.inference.assistant import Assistant
from laterna.inference.generation import Decoding, generate_tokens
from laterna.model.build import build_from_recipe
from laterna.model.vlm import VisionLanguageModel
from laterna.recipe import ConnectorSettings, Recipe
from laterna.records import Turn

TEXT = "<s>USER: <image>\nWhat is it? ASSISTANT: A red bicycle"
NOISE = np.random.default_rng(5).integers(0, 255, (40, 28, 3), dtype=np.uint8)
IMAGE = Image.fromarray(NOISE)


@pytest.fixture
def require_equality() -> Callable[..., None]:
    """Holds two assistants against each other: logits over a text, and greedy tokens."""

    def require(
        ours: VisionLanguageModel | Assistant,
        theirs: VisionLanguageModel | Assistant,
        tolerance: float = 0.0,
    ) -> None:
        models = [one.model if isinstance(one, Assistant) else one for one in (ours, theirs)]
        before, after = (model.logits([IMAGE], TEXT) for model in models)
        width = min(before.shape[1], after.shape[1])
        torch.testing.assert_close(after[:, :width], before[:, :width], atol=tolerance, rtol=0)
        prompt = [([Turn(role="user", text="<image>\nHow many?")], [IMAGE])]
        answers = [generate_tokens(model, prompt, Decoding(max_new_tokens=16)) for model in models]
        assert answers[0] == answers[1]

    return require


@pytest.fixture(params=["linear", "mlp"])
def either(request: Any, tiny_recipe: Recipe) -> VisionLanguageModel:
    settings = ConnectorSettings(kind=request.param)
    return build_from_recipe(msgspec.structs.replace(tiny_recipe, connector=settings))
