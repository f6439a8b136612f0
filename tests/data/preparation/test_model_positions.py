"""Records longer than what the language model can read at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from laterna.records import InstructionRecord, Turn


def record_of(name: str, answer: str = "A cup.") -> InstructionRecord:
    turns = (
        Turn(role="user", text="<image>\nWhat?"),
        Turn(role="assistant", text=answer, loss=True),
    )
    return InstructionRecord(id=name, images=("good.jpg",), turns=turns)


@pytest.fixture
def images(tmp_path: Path) -> str:
    folder = tmp_path / "images"
    folder.mkdir()
    Image.effect_noise((64, 48), 80).convert("RGB").save(folder / "good.jpg")
    return str(folder)


def test_a_record_longer_than_the_models_positions_is_dropped(maker: Any) -> None:
    source = maker.source([record_of("a"), record_of("b", "cup " * 60)])
    whole = maker.prepare(source, max_tokens=99)
    lengths = sorted(whole.lengths.tolist())
    cut = maker.prepare(source, max_tokens=99, positions=lengths[0])
    reason = f"longer than the {lengths[0]} positions of the language model"
    assert cut.dropped == {reason: 1}
    assert cut.examples == {reason: f"record b: {lengths[1]} tokens long"}
    assert [sample.id for sample in cut.samples] == ["a"]
    assert maker.prepare(source, max_tokens=lengths[0], positions=99).dropped == {
        f"longer than {lengths[0]} tokens": 1
    }
