"""AnyRes: tiles by the images' sizes, by a setting, or by the largest grid."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace
from PIL import Image

from laterna.errors import LaternaError
from laterna.model.build import build_on_meta
from laterna.planner.assumptions import Assumptions
from laterna.planner.images import Images, ShownImage, stage_images
from laterna.planner.plan import StagePlan, plan_recipe
from laterna.recipe import FusionSettings, Recipe, load_recipe
from laterna.records import InstructionRecord, Turn

# nano's encoder makes 8 × 8 tokens of a square; a grid's rows end with a newline each.
TALL = 64 + 16 * 9  # 2 × 1 squares and the whole view
WIDE = 64 + 8 * 17  # 1 × 2
LARGE = 64 + 16 * 17  # 2 × 2


@pytest.fixture
def tiled(tmp_path: Path) -> Recipe:
    """nano under AnyRes, over three images: one fills each grid."""
    (tmp_path / "images").mkdir()
    records = []
    for name, size in (("tall", (64, 128)), ("wide", (128, 64)), ("square", (300, 300))):
        Image.new("RGB", size).save(tmp_path / "images" / f"{name}.png")
        for number in range(2):  # an image counts once, however many records show it
            turns = (Turn(role="user", text="<image>"), Turn(role="assistant", text="a", loss=True))
            records.append(
                InstructionRecord(id=f"{name}{number}", images=(f"{name}.png",), turns=turns)
            )
    data = tmp_path / "data.jsonl"
    data.write_bytes(b"".join(msgspec.json.encode(record) + b"\n" for record in records))
    nano = load_recipe("nano")
    align = replace(nano.align, data=str(data), images=str(tmp_path / "images"))
    vision = replace(nano.vision, fit="anyres")
    return replace(nano, align=align, vision=vision, prepared=str(tmp_path / "prepared"))


def stage(recipe: Recipe, tiles: int | None = None) -> StagePlan:
    plan = plan_recipe(recipe, Assumptions(tiles=tiles), stages=["align"], gpu="L4")
    assert (plan.fewest_image_tokens, plan.image_tokens, plan.tiles) == (WIDE, LARGE, 5)
    return plan.stages[0]


def images(recipe: Recipe, tiles: int | None = None) -> Images:
    """What the plan takes, without the plan."""
    return stage_images(build_on_meta(recipe), recipe, "align", tiles)


def test_tiles_are_those_of_the_images(tiled: Recipe) -> None:
    found = stage(tiled).images
    assert found == images(tiled)
    assert found.typical.tiles == pytest.approx((3 + 3 + 5) / 3)
    assert found.typical.tokens == round((TALL + WIDE + LARGE) / 3)
    assert found.largest == ShownImage(tokens=LARGE, tiles=5)
    assert found.known_by == "the sizes of 3 of the stage's 3 images"


def test_flops_follow_the_mean_and_memory_the_largest(tiled: Recipe) -> None:
    own, least, most = stage(tiled), stage(tiled, 3), stage(tiled, 5)
    vision = [one.parts[0].forward_flops for one in (least, own, most)]
    assert vision[1] / vision[0] == pytest.approx((3 + 3 + 5) / 9, rel=0.005)
    assert vision[2] / vision[0] == pytest.approx(5 / 3)
    assert least.flops < own.flops < most.flops
    assert own.memory == most.memory
    assert least.memory.total < most.memory.total
    assert own.tokens == round((TALL + WIDE + LARGE) / 3) + own.lengths.text


def test_the_cache_of_features_holds_all_tiles(tiled: Recipe) -> None:
    recipe = replace(tiled, feature_cache="features")
    given = Assumptions(tiles=5)
    plan = plan_recipe(recipe, given, stages=["align"], records={"align": 10}, gpu="L4")
    assert plan.stages[0].feature_cache == 10 * 5 * 64 * 128 * 4


def test_an_image_that_cannot_be_read_is_left_out(tiled: Recipe) -> None:
    (Path(tiled.align.images) / "tall.png").unlink()
    found = images(tiled)
    assert found.typical == ShownImage(tokens=round((WIDE + LARGE) / 2), tiles=4)
    assert found.known_by == "the sizes of 2 of the stage's 3 images"


@pytest.mark.parametrize("row", [b"{no", b'{"turns": 3}', b'{"turns": []}'])
def test_a_row_that_cannot_be_read_costs_itself_alone(row: bytes, tiled: Recipe) -> None:
    data = Path(tiled.align.data)
    data.write_bytes(b"\n".join([row, data.read_bytes()]))
    assert images(tiled).known_by == "the sizes of 3 of the stage's 3 images"


def test_tiles_beside_the_row_are_counted_there(tiled: Recipe) -> None:
    recipe = replace(tiled, fusion=FusionSettings(kind="cross_attention"))
    for tiles, beside in (
        (None, (round((TALL + WIDE + LARGE) / 3), LARGE)),
        (3, (round((TALL + WIDE) / 2), TALL)),
    ):
        found = images(recipe, tiles)
        assert (found.typical.beside, found.largest.beside) == beside
        assert found.typical.tokens == found.largest.tokens == 1
        assert found.largest.tiles == (tiles or 5)


def test_without_images_or_a_setting_the_largest_grid_is_taken_and_said(tiled: Recipe) -> None:
    found = images(replace(tiled, align=replace(tiled.align, data="not-there.json")))
    assert found.typical == found.largest == ShownImage(tokens=LARGE, tiles=5)
    assert found.known_by.startswith("the largest grid: the sizes of the stage's images cannot be")


def test_a_setting_is_taken_before_the_images(tiled: Recipe) -> None:
    found = images(tiled, 3)
    assert found.typical == ShownImage(tokens=round((TALL + WIDE) / 2), tiles=3)
    assert (found.largest.tiles, found.known_by) == (3, "--tiles")
    with pytest.raises(
        LaternaError, match="--tiles 9: no grid of this recipe has that many; use 3, 4, 5"
    ):
        images(tiled, 9)


def test_images_that_are_not_tiled_all_take_the_same() -> None:
    found = images(load_recipe("nano"))
    assert found.typical == found.largest == ShownImage(tokens=64, tiles=1)
    assert found.known_by == ""
    with pytest.raises(LaternaError, match=r"--tiles 3: this recipe does not tile its images"):
        images(load_recipe("nano"), 3)
