"""Parts from their configurations alone: they count an image's tokens as the assistant does."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from laterna.data.images.tokens import SameTokens
from laterna.model.build import build_from_recipe, image_counter
from laterna.recipe import ConnectorSettings, Recipe, load_recipe


@pytest.mark.parametrize(
    ("connector", "fit", "tokens"),
    [
        (ConnectorSettings(), "pad", [4, 4]),
        (ConnectorSettings(kind="pool"), "pad", [1, 1]),
        (ConnectorSettings(kind="perceiver", queries=5, blocks=1), "pad", [5, 5]),
        (ConnectorSettings(), "anyres", [4 + 8 + 2, 4 + 8 + 4]),  # the whole, a grid, newlines
    ],
    ids=["mlp", "pool", "perceiver", "anyres"],
)
def test_the_counter_is_that_of_the_assistant(
    tiny_recipe: Recipe, connector: ConnectorSettings, fit: str, tokens: list[int]
) -> None:
    vision = replace(tiny_recipe.vision, fit=fit, grids=((1, 2), (2, 1)))
    recipe = replace(tiny_recipe, vision=vision, connector=connector)
    counter = image_counter(recipe)
    assert counter == build_from_recipe(recipe).image_tokens
    assert [counter(56, 28), counter(28, 56)] == tokens


def test_the_shipped_assistant_needs_no_weights_to_be_counted() -> None:
    assert image_counter(load_recipe("nano")) == SameTokens(tokens=64)
