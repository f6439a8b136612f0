"""AnyRes: which grid a size takes, what of it stays, and that the count says as much."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import CLIPImageProcessorPil

from laterna.data.images.fitting import ImagePreparer
from laterna.data.images.tokens import (
    TiledTokens,
    best_tiling,
    count_images,
    kept_tokens,
    tiled_tokens,
)
from laterna.errors import LaternaError
from laterna.recipe import VisionSettings
from laterna.records import IMAGE_TOKEN_INDEX, Sample

GRIDS = VisionSettings(source="").grids


@pytest.mark.parametrize(
    ("size", "grid"),
    [
        ((10, 10), (1, 2)),  # as much border on every grid of two; the first wins
        ((700, 700), (2, 2)),
        ((1400, 300), (1, 3)),
        ((300, 1400), (3, 1)),
        ((640, 320), (1, 2)),
        ((320, 640), (2, 1)),
    ],
)
def test_the_grid_that_keeps_most_pixels_is_taken(
    size: tuple[int, int], grid: tuple[int, int]
) -> None:
    tiling = best_tiling(*size, GRIDS, 336)
    assert (tiling.rows, tiling.columns) == grid
    assert (tiling.width, tiling.height) == size
    assert tiling.tiles == 1 + grid[0] * grid[1]


def test_border_is_cut_alike_on_both_sides() -> None:
    wide = kept_tokens(best_tiling(672, 168, GRIDS, 336), 24)
    assert wide == (6, 0, 12, 48)
    tall = kept_tokens(best_tiling(168, 672, GRIDS, 336), 24)
    assert tall == (0, 6, 48, 12)
    assert tiled_tokens(best_tiling(672, 168, GRIDS, 336), 24) == 576 + 12 * 48 + 12


@given(width=st.integers(1, 4000), height=st.integers(1, 4000), side=st.integers(1, 24))
def test_what_is_kept_lies_in_the_middle_of_the_grid(width: int, height: int, side: int) -> None:
    tiling = best_tiling(width, height, GRIDS, 14 * side)
    kept = kept_tokens(tiling, side)
    assert 2 * kept.top + kept.rows == tiling.rows * side
    assert 2 * kept.left + kept.columns == tiling.columns * side
    assert 0 in (kept.top, kept.left)
    assert tiled_tokens(tiling, side) == side**2 + kept.rows * (kept.columns + 1)


def test_of_a_line_the_whole_view_is_left() -> None:
    assert tiled_tokens(best_tiling(3000, 1, GRIDS, 336), 24) == 576


def test_a_images_tokens_are_counted_from_its_file(tmp_path: Path) -> None:
    Image.new("RGB", (672, 168)).save(tmp_path / "wide.png")
    sample = Sample(
        id="a",
        input_ids=(1, IMAGE_TOKEN_INDEX),
        targets=(False, False),
        image_slots=(1,),
        images=("wide.png",),
    )
    counter = TiledTokens(grids=GRIDS, side=336, map_side=24)
    assert count_images(sample, counter, tmp_path).length == 1 + 576 + 12 * 49
    with pytest.raises(ValueError, match="sizes are needed, but no folder"):
        count_images(sample, counter, None)


def test_anyres_without_grids_is_refused() -> None:
    with pytest.raises(LaternaError, match=r"needs at least one grid in `vision\.grids`"):
        ImagePreparer(CLIPImageProcessorPil(), "anyres", ())
