"""MMC4's documents are read as OpenFlamingo trains on them, by the recipes that name them."""

from __future__ import annotations

import base64
import copy
import json
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from laterna.data.chat import load_template
from laterna.data.masking import check_record
from laterna.data.preparation.checking import not_one_caption
from laterna.data.sources import read_rows
from laterna.data.sources.rows import Unreadable
from laterna.recipe import load_recipe
from laterna.records import IMAGE_TOKEN_INDEX, InstructionRecord, Sample

SENTENCES = ["We went out.", "A dog ran.", "It barked.", "Then two cups.", "The end."]


def document(*places: object, **keys: object) -> dict[str, object]:
    shown = [
        {"image_name": f"{number}.jpg", "raw_url": "https://x/y.jpg", "matched_text_index": place}
        for number, place in enumerate(places)
    ]
    return {"url": "https://x", "text_list": SENTENCES, "image_info": shown, **keys}


def read(row: dict[str, object], folder: Path) -> InstructionRecord | Unreadable:
    path = folder / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    (found,) = read_rows(path)
    return found


def told(record: InstructionRecord | Unreadable) -> list[tuple[str, str, bool]]:
    assert isinstance(record, InstructionRecord), record
    return [(turn.role, turn.text, turn.loss) for turn in record.turns]


def test_what_follows_an_image_is_learned_up_to_the_next(tmp_path: Path) -> None:
    found = read(document(3, 1), tmp_path)
    assert told(found) == [
        ("user", "We went out.<image>", False),
        ("assistant", "A dog ran. It barked.", True),
        ("user", "<image>", False),
        ("assistant", "Then two cups. The end.", True),
    ]
    assert isinstance(found, InstructionRecord)
    assert found.images == ("1.jpg", "0.jpg")  # in the order of their places


def test_images_at_one_sentence_and_images_within_the_row(tmp_path: Path) -> None:
    kept = BytesIO()
    Image.new("RGB", (4, 4), "red").save(kept, "PNG")
    row = document(0, 0.0)
    row["image_info"][1]["image_base64"] = base64.b64encode(kept.getvalue()).decode()  # type: ignore[index]
    found = read(row, tmp_path)
    assert told(found) == [
        ("user", "<image><image>", False),
        ("assistant", " ".join(SENTENCES), True),
    ]
    assert isinstance(found, InstructionRecord)
    assert found.images[0] == "0.jpg" and len(found.images[1]) == 32


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (document(), "a document without images"),
        (document(5), "an image at no sentence"),
        (document(-1), "an image at no sentence"),
        (document(True), "an image at no sentence"),
        (document(None), "an image at no sentence"),
        (document("1"), "an image at no sentence"),
        (document(float("inf")), "an image at no sentence"),
        (document(1, text_list=["a", "  "]), "an answer is empty"),
        (document(0, text_list=["a <image> b"] * 2), None),
        (document(0.5), "an image at no sentence"),
        (document(0, text_list=[1, 2]), "not a row of the form text_list"),
        (document(0, text_list="a b"), "not a row of the form text_list"),
        (document(0, image_info=[3]), "not a row of the form text_list"),
        (document(0, image_info=None), "not a row of the form text_list"),
        (document(image_info=[{"matched_text_index": 0, "raw_url": "https://x"}]), "image missing"),
        (document(0, video="a.mp4"), "asks about a video"),
    ],
    ids=str,
)
def test_odd_documents(row: dict[str, object], reason: str | None, tmp_path: Path) -> None:
    found = read(row, tmp_path)
    assert (found.reason if isinstance(found, Unreadable) else None) == reason


@pytest.mark.parametrize("own", [True, False], ids=["its token", "the tokenizer's end"])
@pytest.mark.parametrize("name", ["openflamingo-3b", "openflamingo-9b", "idefics-9b"])
def test_the_recipes_learn_what_openflamingo_learns(
    name: str, own: bool, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    recipe = load_recipe(name)
    tokenizer = copy.deepcopy(tiny_tokenizer)
    end = "<|endofchunk|>" if own else "</s>"
    if own:
        tokenizer.add_special_tokens({"additional_special_tokens": [end]})
    template = load_template(recipe.align.template, tokenizer, recipe.image_position)
    record = read(document(1, 3), tmp_path)
    assert isinstance(record, InstructionRecord)
    assert not_one_caption(record, template) is None
    sample = check_record(record, tokenizer, template)
    assert isinstance(sample, Sample), sample
    # Its text, and its rule: nothing before the first image, no image, all else.
    pieces = ["We went out.", f"A dog ran. It barked.{end}", f"Then two cups. The end.{end}"]
    ids = [tokenizer(piece).input_ids for piece in pieces]
    expected = [*ids[0], IMAGE_TOKEN_INDEX, *ids[1], IMAGE_TOKEN_INDEX, *ids[2]]
    assert list(sample.input_ids) == expected
    first = expected.index(IMAGE_TOKEN_INDEX)
    assert list(sample.targets) == [
        place > first and token != IMAGE_TOKEN_INDEX for place, token in enumerate(expected)
    ]
