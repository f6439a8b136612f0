"""A network that no test changes, and the prompts it is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from PIL import Image
from torch import Tensor, nn

from laterna.inference.batching.request import Request
from laterna.inference.generation import Prompt
from laterna.model.build import build_from_recipe
from laterna.model.connectors.base import Connector
from laterna.model.vlm import VisionLanguageModel
from laterna.recipe import Recipe
from laterna.records import Turn

from ..tiny import clip_config, encoder_decoder, flamingo, save_clip

RED = Image.new("RGB", (28, 28), (255, 0, 0))
BLUE = Image.new("RGB", (50, 20), (0, 0, 255))
GREEN = Image.new("RGB", (20, 50), (0, 255, 0))
NOISE = Image.effect_noise((56, 56), 90).convert("RGB")
QUESTION = "What colour is the bicycle?"


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


class Constant(Connector):
    """Gives every image the same tokens."""

    is_map = True

    def __init__(self, tokens_md: Tensor) -> None:
        super().__init__()
        self.tokens_md = nn.Parameter(tokens_md)

    def tokens(self, n: int) -> int:
        return n

    def forward(self, features_bnd: Tensor) -> Tensor:
        return self.tokens_md.expand(len(features_bnd), -1, -1)


@pytest.fixture
def sighted(
    request: pytest.FixtureRequest, tiny_recipe: Recipe, tiny_tokenizer: Any, tmp_path: Path
) -> VisionLanguageModel:
    """A network with 4 by 4 patches that do not look at each other; of another fusion where a test
    is parametrised by it.
    """
    torch.manual_seed(0)
    save_clip(tmp_path / "vision", clip_config(side=56))
    vision = replace(tiny_recipe.vision, source=str(tmp_path / "vision"))
    fusion = getattr(request, "param", "prefix")
    if fusion == "cross_attention":
        tiny_recipe = flamingo(tiny_recipe, gate=0.5)
    elif fusion == "encoder_decoder":
        tiny_recipe = encoder_decoder(tiny_recipe, tiny_tokenizer, tmp_path / "language")
    model = build_from_recipe(replace(tiny_recipe, vision=vision))
    with torch.no_grad():
        for layer in model.vision.model.encoder.layers:
            layer.self_attn.out_proj.weight.zero_()
    return model
