"""A network that no test changes, and the prompts it is asked."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from laterna.inference.batching.request import Request
from laterna.inference.generation import Prompt
from laterna.model.vlm import VisionLanguageModel
from laterna.records import Turn

RED = Image.new("RGB", (28, 28), (255, 0, 0))
BLUE = Image.new("RGB", (50, 20), (0, 0, 255))
GREEN = Image.new("RGB", (20, 50), (0, 255, 0))


def prompt(text: str, *images: Image.Image) -> Prompt:
    return [Turn(role="user", text=text)], images


PROMPTS = [
    prompt("<image>\nWhat colour is the bicycle?", RED),
    prompt("<image>\nWhat colour is the bicycle? And how many apples?", RED),
    prompt("How many apples are there? " * 12),
    prompt("<image>\nAnd <image>\nhere?", BLUE, RED),
    prompt("<image>\nIs there a cup? " + "No. Yes. " * 20, GREEN),
    prompt("What?"),
]


def ids_of(request: Request) -> list[int]:
    return [token.id for token in request.result().tokens]


@pytest.fixture(scope="module")
def model(tiny_models: Path) -> VisionLanguageModel:
    from laterna.model.build import build_from_recipe
    from laterna.recipe import LanguageSettings, Recipe, StageSettings, VisionSettings

    torch.manual_seed(0)
    nowhere = StageSettings(data="none", images="none")
    return build_from_recipe(
        Recipe(
            name="tiny",
            vision=VisionSettings(source=str(tiny_models / "vision")),
            language=LanguageSettings(source=str(tiny_models / "language")),
            align=nowhere,
            instruct=nowhere,
        )
    )
