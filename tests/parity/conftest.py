"""Assistants with the connectors that others have too, and what holds two against each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image

from laterna.model.assistant import Assistant, load_assistant_from
from laterna.model.generation import generate_tokens
from laterna.recipe import ConnectorSettings, Recipe
from laterna.records import Turn

TEXT = "<s>USER: <image>\nWhat is it? ASSISTANT: A red bicycle"
NOISE = np.random.default_rng(5).integers(0, 255, (40, 28, 3), dtype=np.uint8)
PICTURE = Image.fromarray(NOISE)


@pytest.fixture
def insist_on_equality() -> Callable[..., None]:
    """Holds two assistants against each other: logits over a text, and greedy tokens."""

    def insist(ours: Assistant, theirs: Assistant, tolerance: float = 0.0) -> None:
        before, after = (assistant.logits([PICTURE], TEXT) for assistant in (ours, theirs))
        width = min(before.shape[1], after.shape[1])
        torch.testing.assert_close(after[:, :width], before[:, :width], atol=tolerance, rtol=0)
        prompt = [([Turn(role="user", text="<image>\nHow many?")], [PICTURE])]
        answers = [
            generate_tokens(assistant, prompt, max_new_tokens=16) for assistant in (ours, theirs)
        ]
        assert answers[0] == answers[1]

    return insist


@pytest.fixture(params=["linear", "mlp"])
def either(request: Any, tiny_recipe: Recipe) -> Assistant:
    settings = ConnectorSettings(kind=request.param)
    return load_assistant_from(msgspec.structs.replace(tiny_recipe, connector=settings))
