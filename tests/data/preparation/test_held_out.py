"""What is held out, and that no image of it is trained on, whatever its sources."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from PIL import Image
from transformers import PreTrainedTokenizerFast

from laterna.errors import LaternaError
from laterna.records import InstructionRecord, Turn

Tokenizers = dict[str, PreTrainedTokenizerFast]


def record_of(name: str, *images: str) -> InstructionRecord:
    turns = (
        Turn(role="user", text="<image>" * len(images) + "What?"),
        Turn(role="assistant", text="A cup.", loss=True),
    )
    return InstructionRecord(id=name, images=images, turns=turns)


@pytest.fixture
def images(tmp_path: Path) -> str:
    """Twenty images, `0.png` to `19.png`."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(20):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number}.png")
    return str(folder)


def test_what_is_held_out_shows_no_image_that_is_trained_on(maker: Any, images: str) -> None:
    records = [
        record_of(f"{number}-{again}", f"{number}.png")
        for again in range(3)
        for number in range(10)
    ]
    one = maker.source(records, images, weight=2)
    result = maker.prepare(one, validation=0.2)
    held = [sample.id for sample in result.validation]
    assert len(held) == len(set(held)) == 6
    assert len({name[0] for name in held}) == 2
    assert len(result.samples) == len(result.lengths) == len(result.learned) == 48
    assert not {sample.id[0] for sample in result.samples} & {name[0] for name in held}
    assert [sample.id for sample in maker.prepare(one, validation=0.2).validation] == held
    assert [sample.id for sample in maker.prepare(one, validation=0.2, seed=1).validation] != held
    with pytest.raises(LaternaError, match=r"validation = 1\.5: give a share"):
        maker.prepare(one, validation=1.5)


def test_a_image_of_two_sources_is_held_out_in_both(maker: Any, images: str) -> None:
    """One folder under three names: itself, the one above it, and one of links."""
    links = maker.folder / "links"
    links.mkdir()
    for number in range(20):
        (links / f"l{number}.png").symlink_to(Path(images) / f"{number}.png")
    above, name = str(Path(images).parent), Path(images).name
    one = maker.source([record_of(f"a{n}", f"{n}.png") for n in range(20)], images)
    two = maker.source([record_of(f"b{n}", f"{name}/{n}.png") for n in range(20)], above, weight=2)
    three = maker.source([record_of(f"c{n}", f"l{n}.png") for n in range(10)], str(links))
    three = msgspec.structs.replace(three, allow_outside=True)
    result = maker.prepare(one, two, three, validation=0.2)
    held = [sample.id for sample in result.validation]
    shown = {int(name[1:]) for name in held}
    assert {name for name in held if name[0] == "a"} == {f"a{number}" for number in shown}
    assert {name for name in held if name[0] == "b"} == {f"b{number}" for number in shown}
    assert not {int(sample.id[1:]) for sample in result.samples} & shown
    # 4 of the 20 images; the third source asks for 2 of its 10, some of which are among them.
    assert 4 <= len(shown) <= 6
    assert sum(name[0] == "c" for name in held) == sum(number < 10 for number in shown) >= 2
    alone = maker.prepare(one, validation=0.2)
    assert {sample.id for sample in alone.validation} <= set(held)


def test_a_image_of_a_source_that_is_held_out_is_trained_on_by_no_other(
    maker: Any, images: str
) -> None:
    both = record_of("both", "0.png", "3.png")
    one = maker.source([*(record_of(f"a{n}", f"{n}.png") for n in range(4)), both], images)
    two = maker.source([record_of("b3", "3.png")], images, weight=0)
    result = maker.prepare(one, two)
    assert [sample.id for sample in result.validation] == ["b3"]
    assert [sample.id for sample in result.samples] == ["a0", "a1", "a2"]
    reason = "shows an image that is held out in another record"
    assert (result.dropped, result.examples) == ({reason: 2}, {reason: "record a3"})
    with pytest.raises(LaternaError, match=f"no record can be trained on .1 × {reason}"):
        maker.prepare(maker.source([record_of("c", "3.png")], images), two)


def test_a_source_of_weight_0_is_held_out_whole_and_changes_no_other(maker: Any) -> None:
    one = maker.source([record_of(f"a{number}", "0.png") for number in range(9)], weight=1.5)
    two = maker.source([record_of("b0", "0.png"), record_of("b1")], weight=0)
    result = maker.prepare(one, two)
    assert [sample.id for sample in result.validation] == ["b0", "b1"]
    alone = maker.prepare(one)
    assert [one.id for one in result.samples] == [one.id for one in alone.samples]
