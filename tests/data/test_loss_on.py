"""What a stage learns of a sample: the four masks by value, on real templates."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from laterna.data.chat import load_template
from laterna.data.masking import loss_mask, opening_length, tokenize
from laterna.errors import LaternaError
from laterna.recipe import Recipe
from laterna.records import IMAGE_TOKEN_INDEX, InstructionRecord, Turn
from laterna.training.checks import require_sensible

IDS = (1, 50, 51, IMAGE_TOKEN_INDEX, 60, 61, 70, 71, 2, 62, 72, 2)
ANSWERS = (*[False] * 6, True, True, True, False, True, True)


def learned(mask: tuple[bool, ...]) -> list[int]:
    return [token for token, yes in zip(IDS, mask, strict=True) if yes]


def test_each_mask_by_value() -> None:
    assert learned(loss_mask(ANSWERS, IDS, "answers", 3)) == [70, 71, 2, 72, 2]
    assert learned(loss_mask(ANSWERS, IDS, "answers-no-end", 3)) == [70, 71, 72]
    assert learned(loss_mask(ANSWERS, IDS, "chat", 3)) == [60, 61, 70, 71, 2, 62, 72, 2]
    assert learned(loss_mask(ANSWERS, IDS, "all", 3)) == [50, 51, 60, 61, 70, 71, 2, 62, 72, 2]


def test_the_opening_is_all_that_stands_before_the_users_words(tiny_tokenizer: Any) -> None:
    template = load_template("vicuna_v1", tiny_tokenizer)
    turns = (
        Turn(role="user", text="What colour?"),
        Turn(role="assistant", text="red", loss=True),
    )
    sample = tokenize(InstructionRecord(id="a", images=(), turns=turns), tiny_tokenizer, template)
    opening = opening_length(tiny_tokenizer, template)
    before = tiny_tokenizer.decode(sample.input_ids[:opening])
    assert "curious user" in before
    assert before.rstrip().endswith("USER:")
    assert "What" not in before
    chat = loss_mask(sample.targets, sample.input_ids, "chat", opening)
    said = [token for token, yes in zip(sample.input_ids, chat, strict=True) if yes]
    assert tiny_tokenizer.decode(said).strip().startswith("What colour?")


def test_shared_images_and_learned_words_before_them_are_refused(tiny_recipe: Recipe) -> None:
    stage = replace(tiny_recipe.instruct, shared_prefix=True, loss_on="all")
    with pytest.raises(LaternaError, match="set shared_prefix = false"):
        require_sensible(replace(tiny_recipe, instruct=stage), ["instruct"])
    allowed = replace(stage, loss_on="answers-no-end")
    require_sensible(replace(tiny_recipe, instruct=allowed), ["instruct"])
