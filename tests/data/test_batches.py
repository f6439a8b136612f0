"""Batches, number by number."""

from __future__ import annotations

from laterna.data.batches import collate
from laterna.records import IMAGE_TOKEN_INDEX, Pack, Sample

SEEING = Sample(
    id="seeing",
    input_ids=(5, IMAGE_TOKEN_INDEX, 6, 7),
    targets=(False, False, True, True),
    image_slots=(1,),
    image_tokens=(3,),
    images=("a.png",),
)
WORDS = Sample(id="words", input_ids=(8, 9), targets=(True, True), image_slots=())
TWO = Sample(
    id="two",
    input_ids=(IMAGE_TOKEN_INDEX, IMAGE_TOKEN_INDEX, 4),
    targets=(False, True, True),
    image_slots=(0, 1),
    image_tokens=(2, 4),
    images=("b.png", "c.png"),
)


def test_a_batch_number_by_number() -> None:
    packs = [Pack(samples=(SEEING, WORDS)), Pack(samples=(TWO,))]
    batch = collate(packs, pad_id=2)
    assert batch.ids == ("seeing", "words", "two")
    assert batch.images == ("a.png", "b.png", "c.png")
    assert batch.input_ids_rt.tolist() == [
        [5, 2, 2, 2, 6, 7, 8, 9],
        [2, 2, 2, 2, 2, 2, 4, 2],
    ]
    assert batch.position_ids_rt.tolist() == [
        [0, 1, 2, 3, 4, 5, 0, 1],
        [0, 1, 2, 3, 4, 5, 6, 0],
    ]
    # the first word of "words" is no target, for "seeing" stands before it; nor is an image
    assert batch.loss_mask_rt.int().tolist() == [
        [0, 0, 0, 0, 1, 1, 0, 1],
        [0, 0, 0, 0, 0, 0, 1, 0],
    ]
    assert batch.image_mask_rt.int().tolist() == [
        [0, 1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 1, 0, 0],
    ]
    assert batch.pixels_bchw is None
    assert batch.features_bnd is None


def test_padding_has_positions_of_its_own() -> None:
    batch = collate([Pack(samples=(WORDS,)), Pack(samples=(SEEING,))])
    assert batch.position_ids_rt.tolist() == [[0, 1, 0, 1, 2, 3], [0, 1, 2, 3, 4, 5]]
    assert batch.input_ids_rt.tolist()[0] == [8, 9, 0, 0, 0, 0]
    assert not batch.loss_mask_rt[0, 2:].any()


def test_no_image_token_is_left_for_the_embedding() -> None:
    batch = collate([Pack(samples=(TWO,))])
    assert batch.input_ids_rt.min() == 0
    assert batch.image_mask_rt.sum() == 6
