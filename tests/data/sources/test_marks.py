"""Marks of other programs become ours, and keys of a row that say what of it is learned."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from laterna.data.sources import FORMS, open_source
from laterna.data.sources.rows import Unreadable, read_chunk
from laterna.recipe import SourceSettings


def told(path: Path, words: str, answer: str, **keys: object) -> object:
    """Write a row of LLaVA's; return its images and words as read, or why it is refused."""
    said = [{"from": "human", "value": words}, {"from": "gpt", "value": answer}]
    path.write_text(json.dumps([{"id": "a", "conversations": said} | keys]))
    source = open_source(SourceSettings(data=str(path)))
    (row,) = (row for chunk in source.chunks() for row in read_chunk(chunk, FORMS[source.form]))
    if isinstance(row, Unreadable):
        return row.reason
    return [*row.record.images], [turn.text for turn in row.record.turns]


QWEN = "<|vision_start|><|image_pad|><|image_pad|><|vision_end|>"


@pytest.mark.parametrize(
    ("words", "images", "read"),
    [
        (f"{QWEN}What?", 1, "<image>What?"),
        ("<im_start><image><im_end>\nWhat?", 1, "<image>\nWhat?"),
        ("<ImageHere>What?", 1, "<image>What?"),
        ("[IMG]What?", 1, "<image>What?"),
        ("<start_of_image>What?", 1, "<image>What?"),
        ("<image 1> or <image 2>?", 2, "<image> or <image>?"),
        ("<|image_1|>\nWhat?", 1, "<image>\nWhat?"),
        # not as many as images, not in order, or beside our own: words
        ("<image 2> or <image 1>?", 2, "<image 2> or <image 1>?"),
        ("[IMG] or [IMG]?", 1, "[IMG] or [IMG]?"),
        ("<image>What does [IMG] say?", 1, "<image>What does [IMG] say?"),
        ("Is 1 < 2? [IMG]", 0, "Is 1 < 2? [IMG]"),
    ],
)
def test_other_programs_marks_become_ours(
    words: str, images: int, read: str, tmp_path: Path
) -> None:
    names = [f"{number}.jpg" for number in range(images)]
    found = told(tmp_path / "data.json", words, "Red [IMG].", images=names)
    assert found == (names, [read, "Red [IMG]."])


@pytest.mark.parametrize(
    ("key", "value", "outcome"),
    [
        ("weight", 0, "is not to be learned"),
        ("weight", 0.0, "is not to be learned"),
        ("weight", 0.25, ([], ["Hi", "Ho"])),  # of sampling, which the recipe says here
        (
            "loss_mask",
            [0, 1],
            "says in a way that can be read both ways what of a turn is learned",
        ),
        ("label", 0, ([], ["Hi", "Ho"])),  # of a class, as most are
    ],
)
def test_keys_of_a_row_that_say_what_is_learned(
    key: str, value: object, outcome: object, tmp_path: Path
) -> None:
    assert told(tmp_path / "data.json", "Hi", "Ho", **{key: value}) == outcome
