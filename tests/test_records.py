"""Records: frozen, strict on reading, and unchanged by a round trip."""

from __future__ import annotations

import msgspec
import pytest

from laterna import records
from laterna.records import (
    DEFAULT_IMAGE_TOKEN,
    IMAGE_TOKEN_INDEX,
    Box,
    InstructionRecord,
    Pack,
    Provenance,
    Record,
    Sample,
    Score,
    Toy,
    Truth,
    Turn,
)

RECORD = InstructionRecord(
    id="7",
    images=("000000000007.jpg",),
    turns=(
        Turn(role="user", text=f"{DEFAULT_IMAGE_TOKEN}\nHow many cups are there?"),
        Turn(role="assistant", text="There are two cups.", loss=True),
    ),
    kind="conversation",
    provenance=Provenance(teacher="scribe", proxy_digest="ab" * 32),
)


def all_records() -> list[type[Record]]:
    return [
        thing
        for thing in vars(records).values()
        if isinstance(thing, type) and issubclass(thing, Record) and thing is not Record
    ]


def test_a_record_survives_json() -> None:
    assert msgspec.json.decode(msgspec.json.encode(RECORD), type=InstructionRecord) == RECORD


def test_a_truth_with_its_boxes_survives_json() -> None:
    box = Box(category="cup", x1=0.25, y1=0.5, x2=0.375, y2=0.75)
    toy = Toy(category="cup", colour="red", texture="rough", size="small", box=box)
    truth = Truth(id="3", image="3.png", lighting="dim", sign="OPEN", sign_box=box, toys=(toy,))
    assert msgspec.json.decode(msgspec.json.encode(truth), type=Truth) == truth


@pytest.mark.parametrize("struct", all_records(), ids=lambda struct: struct.__name__)
def test_every_record_is_frozen_and_refuses_unknown_fields(struct: type[Record]) -> None:
    assert struct.__struct_config__.frozen
    assert struct.__struct_config__.forbid_unknown_fields


def test_an_unknown_field_fails_with_its_place() -> None:
    text = msgspec.json.encode(RECORD).replace(b'"loss":true', b'"lost":true')
    with pytest.raises(msgspec.ValidationError, match=r"unknown field `lost` - at `\$\.turns"):
        msgspec.json.decode(text, type=InstructionRecord)


def test_a_record_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        RECORD.id = "8"  # type: ignore[misc]


def test_accuracy_is_a_share_and_of_no_questions_not_a_number() -> None:
    assert Score(name="count", sum=3, total=4).mean == 0.75
    nothing = Score(name="count", sum=0, total=0).mean
    assert nothing != nothing  # only a NaN differs from itself


def test_no_vocabulary_holds_the_image_token() -> None:
    assert IMAGE_TOKEN_INDEX < 0


def test_a_samples_length_counts_its_images_tokens() -> None:
    sample = Sample(
        id="7",
        input_ids=(1, IMAGE_TOKEN_INDEX, 5, IMAGE_TOKEN_INDEX),
        targets=(False,) * 4,
        image_slots=(1, 3),
        image_tokens=(576, 30),
    )
    assert sample.length == 2 + 576 + 30
    assert Pack(samples=(sample, sample)).length == 2 * 608
    with pytest.raises(ValueError, match="sample 7: 1 image token counts for 2 image slots"):
        msgspec.structs.replace(sample, image_tokens=(576,))
    with pytest.raises(ValueError, match="sample 7: the tokens of its images are not counted"):
        _ = msgspec.structs.replace(sample, image_tokens=()).length


def test_the_centre_of_a_box_is_its_middle() -> None:
    assert Box(category="cup", x1=0.25, y1=0.5, x2=0.75, y2=1.0).centre == (0.5, 0.75)
