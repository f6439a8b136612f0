"""A network that no test changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from laterna.model.vlm import VisionLanguageModel


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
