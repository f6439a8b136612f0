"""Where a turn's mark stands: as the record has it, or first, as LLaVA puts it."""

from __future__ import annotations

from typing import Any

from laterna.data.masking import with_image_first
from laterna.records import InstructionRecord, Turn


def test_the_one_mark_of_a_turn_goes_before_its_words_where_asked(maker: Any) -> None:
    def said(*texts: str, pictures: int = 1) -> InstructionRecord:
        turns = []
        for text in texts:
            turns += [Turn(role="user", text=text), Turn(role="assistant", text="a", loss=True)]
        names = tuple(f"{number}.png" for number in range(pictures))
        return InstructionRecord(id="r", pictures=names, turns=tuple(turns))

    last = said("What is it?\n<image>", "And now?")
    inside = said("In <image> what?", "And now?")
    first = said("<image>\nWhat is it?", "And now?")
    both = said("<image> and <image>, alike?", pictures=2)

    def ids(record: InstructionRecord, *, image_first: bool) -> Any:
        return maker.prepare(maker.source([record]), image_first=image_first).samples[0].input_ids

    assert ids(last, image_first=True) == ids(first, image_first=True)
    assert ids(first, image_first=True) == ids(first, image_first=False)
    assert ids(last, image_first=False) != ids(first, image_first=False)
    assert ids(both, image_first=True) == ids(both, image_first=False)
    assert with_image_first(inside).turns[0].text == "<image>\nIn  what?"
    assert with_image_first(both) == both
