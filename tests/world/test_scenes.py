from __future__ import annotations

from itertools import combinations

from laterna.records import Box, Truth
from laterna.synthesis.coco import CATEGORIES as COCO_CATEGORIES
from laterna.world.scenes import MAX_TOYS, SIGN_SIZE, draw_truth, pixels_of
from laterna.world.toys import (
    CATEGORIES,
    COLOURS,
    LIGHTINGS,
    PICTURE_SIDE,
    SIGN_WORDS,
    SIZES,
    TEXTURES,
)

SCENES = [draw_truth("world", 3, index) for index in range(600)]


def attributes(truth: Truth) -> tuple[object, ...]:
    return truth.lighting, truth.sign, truth.sign_box, truth.toys


def overlap(a: Box, b: Box) -> float:
    """Shared area as a share of the smaller box, by floating-point corners."""
    width = max(0.0, min(a.x2, b.x2) - max(a.x1, b.x1))
    height = max(0.0, min(a.y2, b.y2) - max(a.y1, b.y1))
    areas = [(box.x2 - box.x1) * (box.y2 - box.y1) for box in (a, b)]
    return width * height / min(areas)


def test_what_can_stand_on_the_table() -> None:
    assert len(CATEGORIES) >= 24
    assert set(CATEGORIES) <= set(COCO_CATEGORIES)
    assert len(set(CATEGORIES.values())) == len(CATEGORIES), "no two look the same"
    assert len(COLOURS) == 8 == len(set(COLOURS.values()))
    assert TEXTURES == ("smooth", "rough", "striped")
    assert LIGHTINGS == ("bright", "dim")
    assert len(set(SIGN_WORDS)) >= 20


def test_a_scene_is_a_function_of_stream_seed_and_index() -> None:
    assert draw_truth("world", 3, 17) == SCENES[17]
    assert len({attributes(scene) for scene in SCENES}) == len(SCENES)
    other_seed = {attributes(draw_truth("world", 4, index)) for index in range(600)}
    assert not other_seed & {attributes(scene) for scene in SCENES}


def test_the_streams_share_no_scene() -> None:
    """The bases never see a picture that a demo draws, whatever the seeds."""
    pretrain = {
        attributes(draw_truth("pretrain", seed, index)) for seed in range(5) for index in range(400)
    }
    world = {
        attributes(draw_truth("world", seed, index)) for seed in range(5) for index in range(400)
    }
    assert len(pretrain) == len(world) == 2000
    assert not pretrain & world


def test_one_to_five_toys_inside_the_picture() -> None:
    numbers = {len(scene.toys) for scene in SCENES}
    assert numbers == set(range(1, MAX_TOYS + 1))
    assert {len(draw_truth("pretrain", 0, n, max_toys=2).toys) for n in range(100)} == {1, 2}
    for scene in SCENES:
        for toy in scene.toys:
            assert 0 <= toy.box.x1 < toy.box.x2 <= 1
            assert 0 <= toy.box.y1 < toy.box.y2 <= 1
            x1, y1, x2, y2 = pixels_of(toy.box)
            assert x2 - x1 == y2 - y1 in SIZES[toy.size]
            assert toy.box.category == toy.category


def test_toys_and_signs_hardly_overlap() -> None:
    for scene in SCENES:
        boxes = [toy.box for toy in scene.toys]
        for a, b in combinations(boxes, 2):
            assert overlap(a, b) < 0.13  # 6 % of the later one, which may be twice as large
        if scene.sign_box:
            for box in boxes:
                assert overlap(scene.sign_box, box) < 0.2


def test_every_attribute_occurs() -> None:
    toys = [toy for scene in SCENES for toy in scene.toys]
    assert {toy.category for toy in toys} == set(CATEGORIES)
    assert {toy.colour for toy in toys} == set(COLOURS)
    assert {toy.texture for toy in toys} == set(TEXTURES)
    assert {toy.size for toy in toys} == set(SIZES)
    assert {scene.lighting for scene in SCENES} == set(LIGHTINGS)
    assert {scene.sign for scene in SCENES} == {*SIGN_WORDS, None}


def test_signs_have_a_place_and_a_share() -> None:
    signed = [scene for scene in SCENES if scene.sign]
    assert 0.24 < len(signed) / len(SCENES) < 0.36
    for scene in SCENES:
        assert (scene.sign is None) == (scene.sign_box is None)
        if scene.sign_box:
            x1, y1, x2, y2 = pixels_of(scene.sign_box)
            assert (x2 - x1, y2 - y1) == SIGN_SIZE
            assert 0 <= x1 < x2 <= PICTURE_SIDE
            assert 0 <= y1 < y2 <= PICTURE_SIDE


def test_names_of_pictures() -> None:
    assert (SCENES[42].id, SCENES[42].picture) == ("000042", "000042.png")
