"""The mixing of features: undone exactly, less linear the stronger, known to the cache."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from msgspec.structs import replace

from laterna.data.images.fitting import ImagePreparer
from laterna.errors import LaternaError
from laterna.model.build import build_from_recipe, build_on_meta
from laterna.model.exporters import export
from laterna.model.vision.feature_cache import encoder_digest
from laterna.model.vision.mixing import FeatureMixing
from laterna.recipe import Recipe


def linear_residual(inputs_nd: torch.Tensor, outputs_nd: torch.Tensor) -> float:
    """Share of the outputs' variance that the best affine map of the inputs leaves."""
    ones = torch.ones(len(inputs_nd), 1)
    design = torch.cat([inputs_nd, ones], dim=1)
    best = torch.linalg.lstsq(design, outputs_nd).solution
    left = outputs_nd - design @ best
    return float(left.square().sum() / (outputs_nd - outputs_nd.mean(0)).square().sum())


@pytest.mark.parametrize("width", [8, 33, 128])
@pytest.mark.parametrize("strength", [0.5, 1.0, 2.0])
def test_mixing_is_undone(width: int, strength: float) -> None:
    mixing = FeatureMixing(width, strength)
    features = torch.randn(3, 5, width, generator=torch.Generator().manual_seed(1)) * 7
    mixed = mixing(features)
    assert mixed.shape == features.shape
    assert not torch.allclose(mixed, features, atol=0.1)
    torch.testing.assert_close(mixing.inverse(mixed), features, atol=1e-5 * 7 * width, rtol=1e-5)


def test_stronger_mixing_is_less_linear_and_none_is_a_shuffle() -> None:
    features = torch.randn(4000, 24, generator=torch.Generator().manual_seed(2))
    left = [linear_residual(features, FeatureMixing(24, s)(features)) for s in (0.0, 0.5, 1.0, 2.0)]
    assert left[0] < 1e-9
    assert left == sorted(left)
    assert left[-1] > 0.2
    mixed = FeatureMixing(24, 0.0)(features)
    torch.testing.assert_close(mixed.sort(dim=-1).values, features.sort(dim=-1).values)


def test_a_mixing_is_the_same_wherever_it_is_made() -> None:
    first = FeatureMixing(16, 1.0)
    torch.manual_seed(99)
    second = FeatureMixing(16, 1.0)
    for one, two in zip(first.buffers(), second.buffers(), strict=True):
        assert torch.equal(one, two)
    assert not first.state_dict()


def test_a_recipe_mixes_and_cached_features_know_it(tiny_recipe: Recipe) -> None:
    plain = build_from_recipe(tiny_recipe)
    vision = replace(tiny_recipe.vision, mixing=1.0)
    mixed = build_from_recipe(replace(tiny_recipe, vision=vision))
    pixels = torch.randn(2, 3, 28, 28)
    expected = FeatureMixing(plain.vision.width, 1.0)(plain.vision(pixels))
    torch.testing.assert_close(mixed.vision(pixels), expected)
    preparer = ImagePreparer(plain.vision.processor, "pad")
    assert encoder_digest(plain.vision, preparer) != encoder_digest(mixed.vision, preparer)
    assert build_on_meta(replace(tiny_recipe, vision=vision)).vision.patches == plain.vision.patches


def test_neither_a_mixing_nor_a_missing_gelu_is_exported(
    tiny_recipe: Recipe, tmp_path: Path
) -> None:
    vision = replace(tiny_recipe.vision, mixing=1.0)
    with pytest.raises(LaternaError, match=r"vision\.mixing cannot be exported"):
        export(build_from_recipe(replace(tiny_recipe, vision=vision)), tmp_path / "a", "hf")
    connector = replace(tiny_recipe.connector, activation="none")
    model = build_from_recipe(replace(tiny_recipe, connector=connector))
    with pytest.raises(LaternaError, match="has a GELU between"):
        export(model, tmp_path / "b", "hf")
    features = torch.randn(2, 4, model.vision.width)
    both = model.connector(features) + model.connector(-features)
    torch.testing.assert_close(both, 2 * model.connector(torch.zeros_like(features)))
