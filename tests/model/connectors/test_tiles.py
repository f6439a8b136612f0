"""Joining tiles, number by number, and what is refused."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image

from laterna.data.batches import collate
from laterna.data.images.files import ImageFolder
from laterna.data.images.tokens import count_images
from laterna.data.masking import tokenize
from laterna.errors import LaternaError
from laterna.model.build import build_from_recipe
from laterna.model.connectors.tiles import join_tiles, map_side
from laterna.model.vision.feature_cache import cached_features
from laterna.model.vlm import VisionLanguageModel
from laterna.recipe import ConnectorSettings, Recipe
from laterna.records import InstructionRecord, Pack, Sample, Tiling, Turn
from laterna.training.dataloader import fill_features, fill_pixels

NAMES = ("wide.png", "tall.png", "small.png")


@pytest.fixture
def anyres(tiny_recipe: Recipe) -> VisionLanguageModel:
    vision = msgspec.structs.replace(tiny_recipe.vision, fit="anyres")
    return build_from_recipe(msgspec.structs.replace(tiny_recipe, vision=vision))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for name, size in zip(NAMES, [(90, 30), (25, 70), (20, 20)], strict=True):
        pixels = random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
    return tmp_path


def sample(assistant: VisionLanguageModel, folder: Path, *names: str) -> Sample:
    record = InstructionRecord(
        id="r",
        images=names,
        turns=(
            Turn(role="user", text="<image>\n" * len(names) + "Is it red?"),
            Turn(role="assistant", text="It is red.", loss=True),
        ),
    )
    counted = tokenize(record, assistant.tokenizer)
    return count_images(counted, assistant.image_tokens, folder)


def test_tiles_are_joined_number_by_number() -> None:
    """Two tiles of 2 × 2 beside each other; of their 2 × 4 tokens the border takes a column each
    side."""
    tokens = torch.arange(12.0).reshape(3, 4, 1)
    tiling = Tiling(rows=1, columns=2, width=20, height=20)
    (joined,) = join_tiles(tokens, [tiling], torch.tensor([-1.0]))
    assert joined[:, 0].tolist() == [0, 1, 2, 3, 5, 8, -1, 7, 10, -1]


def test_what_does_not_fit_is_refused() -> None:
    tiling = Tiling(rows=1, columns=2, width=20, height=20)
    with pytest.raises(LaternaError, match="2 tiles but their images have 3"):
        join_tiles(torch.zeros(2, 4, 1), [tiling], torch.zeros(1))
    with pytest.raises(LaternaError, match="no newline"):
        join_tiles(torch.zeros(3, 4, 1), [tiling], None)
    with pytest.raises(LaternaError, match="5 tokens per tile do not form a square"):
        map_side(5)


def test_a_connector_without_a_map_is_refused(tiny_recipe: Recipe) -> None:
    vision = msgspec.structs.replace(tiny_recipe.vision, fit="anyres")
    recipe = msgspec.structs.replace(
        tiny_recipe, vision=vision, connector=ConnectorSettings(kind="perceiver")
    )
    with pytest.raises(LaternaError, match="its tokens are no map of the image"):
        build_from_recipe(recipe)


def test_cached_and_computed_features_give_the_same_logits(
    anyres: VisionLanguageModel, images: Path
) -> None:
    files = ImageFolder(images)
    both = sample(anyres, images, "tall.png", "wide.png"), sample(anyres, images, "small.png")
    assert both[0].image_tokens != both[1].image_tokens * 2
    batch = collate([Pack(samples=both)])
    told: list[int] = []
    store = cached_features(
        anyres.vision,
        anyres.prepare,
        NAMES,
        files,
        images / "cache",
        lambda done, total: told.append(done),
        max_gb=1,
        announce=lambda said: None,
    )
    computed = fill_pixels(anyres.prepare, files)(batch)
    cached = fill_features(store)(batch)
    assert cached.tilings == computed.tilings
    assert told == [3]
    logits = [anyres.target_logits(one)[0] for one in (computed, cached)]
    torch.testing.assert_close(logits[0], logits[1], atol=1e-5, rtol=0)
    torch.autograd.backward(logits[0].sum())
    assert anyres.connector.image_newline is not None
    assert anyres.connector.image_newline.grad.abs().sum() > 0  # type: ignore[union-attr]


def test_a_image_that_has_changed_since_it_was_counted_is_named(
    anyres: VisionLanguageModel, images: Path
) -> None:
    """The two images change places, so the total is what it was."""
    counted = sample(anyres, images, "tall.png", "wide.png")
    (images / "tall.png").rename(images / "third.png")
    (images / "wide.png").rename(images / "tall.png")
    (images / "third.png").rename(images / "wide.png")
    batch = fill_pixels(anyres.prepare, ImageFolder(images))(collate([Pack(samples=(counted,))]))
    with pytest.raises(LaternaError, match=r"tall\.png: has \d+ places in the text but became"):
        anyres.embed(batch)
