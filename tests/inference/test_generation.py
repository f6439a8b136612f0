from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from PIL import Image
from torch import Tensor

from laterna.data.masking import tokenize, tokenize_prompt
from laterna.errors import LaternaError
from laterna.inference.assistant import Assistant
from laterna.inference.generation import (
    Decoding,
    Prompt,
    generate_answers,
    generate_tokens,
)
from laterna.model.vlm import VisionLanguageModel
from laterna.records import InstructionRecord, Turn

RED = Image.new("RGB", (28, 28), (255, 0, 0))
BLUE = Image.new("RGB", (50, 20), (0, 0, 255))
QUESTION = "<image>\nWhat colour is the bicycle?"


def prompt(text: str, *images: Image.Image) -> Prompt:
    return [Turn(role="user", text=text)], images


PROMPTS = [
    prompt(QUESTION, RED),
    prompt("How many apples are there? " * 4),
    prompt("<image>\nAnd <image>\nhere?", BLUE, RED),
]


def test_a_prompt_is_token_for_token_what_training_put_before_the_answer(
    tiny_assistant: VisionLanguageModel,
) -> None:
    turns = (
        Turn(role="user", text=QUESTION),
        Turn(role="assistant", text="The bicycle is red.", loss=True),
        Turn(role="user", text="How many?"),
        Turn(role="assistant", text="There are two.", loss=True),
    )
    record = InstructionRecord(id="r", images=("p.png",), turns=turns)
    sample = tokenize(record, tiny_assistant.tokenizer, tiny_assistant.template)
    starts = [
        place
        for place, target in enumerate(sample.targets)
        if target and not sample.targets[place - 1]
    ]
    for asked, start in zip((turns[:1], turns[:3]), starts, strict=True):
        ids = tokenize_prompt(asked, tiny_assistant.tokenizer, tiny_assistant.template)
        assert tuple(ids) == sample.input_ids[:start]


def test_all_that_follows_the_prompt_is_learned(tiny_assistant: VisionLanguageModel) -> None:
    turns = (
        Turn(role="user", text="What is it?"),
        Turn(role="assistant", text="Zebra.", loss=True),  # no token of the vocabulary is " Z"
    )
    record = InstructionRecord(id="r", images=(), turns=turns)
    sample = tokenize(record, tiny_assistant.tokenizer, tiny_assistant.template)
    asked = tokenize_prompt(turns[:1], tiny_assistant.tokenizer, tiny_assistant.template)
    assert all(sample.targets[len(asked) :])


def test_batched_answers_are_those_given_one_by_one(tiny_assistant: VisionLanguageModel) -> None:
    together = generate_tokens(tiny_assistant, PROMPTS, Decoding(max_new_tokens=16))
    alone = [
        generate_tokens(tiny_assistant, [one], Decoding(max_new_tokens=16))[0] for one in PROMPTS
    ]
    assert together == alone
    assert len({tuple(ids) for ids in together}) == 3
    assert generate_answers(tiny_assistant, [], Decoding(max_new_tokens=4)) == []


def test_the_answer_is_the_greedy_continuation_of_the_logits(
    tiny_assistant: VisionLanguageModel,
) -> None:
    text = f"<s>USER: {QUESTION} ASSISTANT:"
    expected: list[int] = []
    for _ in range(6):
        told = tiny_assistant.tokenizer.decode(expected)
        expected.append(int(tiny_assistant.logits([RED], text + told)[-1].argmax()))
        if (
            tiny_assistant.tokenizer(
                text + tiny_assistant.tokenizer.decode(expected), add_special_tokens=False
            ).input_ids[-len(expected) :]
            != expected
        ):
            break  # from here on, text does not lead back to the same tokens
    assert len(expected) >= 1
    given = generate_tokens(tiny_assistant, PROMPTS[:1], Decoding(max_new_tokens=6))[0]
    assert given[: len(expected)] == expected


def test_known_features_stand_in_for_images(tiny_assistant: VisionLanguageModel) -> None:
    with torch.no_grad():
        features = tiny_assistant.vision(tiny_assistant.prepare([RED, BLUE, RED]))
    unseen: list[Prompt] = [(turns, ()) for turns, _ in PROMPTS]
    assert generate_tokens(
        tiny_assistant, unseen, Decoding(max_new_tokens=8), features_bnd=features
    ) == generate_tokens(tiny_assistant, PROMPTS, Decoding(max_new_tokens=8))


def test_a_image_in_several_prompts_is_encoded_once(
    tiny_assistant: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = [
        generate_tokens(tiny_assistant, [one], Decoding(max_new_tokens=8))[0] for one in PROMPTS
    ]
    see, seen = tiny_assistant.encode_images, list[int]()

    def counted(images: Sequence[Image.Image]) -> Sequence[Tensor]:
        seen.append(len(images))
        return see(images)

    monkeypatch.setattr(tiny_assistant, "encode_images", counted)
    assert generate_tokens(tiny_assistant, PROMPTS, Decoding(max_new_tokens=8)) == alone
    assert seen == [2]  # red stands in two prompts


@pytest.mark.parametrize("images", [(), (RED, RED)])
def test_a_mark_without_its_image_is_refused(
    tiny_assistant: VisionLanguageModel, images: tuple[Image.Image, ...]
) -> None:
    with pytest.raises(LaternaError, match="1 `<image>` marks but"):
        generate_answers(tiny_assistant, [prompt(QUESTION, *images)], Decoding(max_new_tokens=4))


def test_an_answer_stops_at_the_end_of_turn(tiny_assistant: VisionLanguageModel) -> None:
    free = generate_tokens(tiny_assistant, PROMPTS[:1], Decoding(max_new_tokens=8))[0]
    assert tiny_assistant.end_of_turn() == [tiny_assistant.tokenizer.eos_token_id]
    # Make the third token of the free answer one that the model's own settings call an end.
    tiny_assistant.language.generation_config.eos_token_id = [free[2]]
    stopped = generate_tokens(tiny_assistant, PROMPTS[:1], Decoding(max_new_tokens=8))[0]
    assert stopped == free[: free.index(free[2]) + 1]


def test_the_end_of_turn_is_read_from_the_template(tiny_assistant: VisionLanguageModel) -> None:
    tiny_assistant.template = tiny_assistant.template.replace("eos_token", "pad_token")
    ends = {tiny_assistant.tokenizer.eos_token_id, tiny_assistant.tokenizer.pad_token_id}
    assert set(tiny_assistant.end_of_turn()) == ends


def test_a_models_own_repetition_penalty_is_not_applied(
    tiny_assistant: VisionLanguageModel,
) -> None:
    before = generate_tokens(tiny_assistant, PROMPTS[:1], Decoding(max_new_tokens=12))
    tiny_assistant.language.generation_config.repetition_penalty = 9.0
    assert generate_tokens(tiny_assistant, PROMPTS[:1], Decoding(max_new_tokens=12)) == before


def test_a_prompt_beyond_the_models_positions_is_refused(
    tiny_assistant: VisionLanguageModel,
) -> None:
    """The tiny model has 256; an answer ends where they do, and never runs on in rubbish."""
    words = "apple " * 400
    with pytest.raises(LaternaError, match="the model has 256 positions"):
        Assistant(tiny_assistant).answer(None, words, max_new_tokens=8)
    with pytest.raises(LaternaError, match=r"prompt is \d{3,} tokens long.* has 256 positions"):
        generate_tokens(tiny_assistant, [prompt(words)], Decoding(max_new_tokens=8))
    with pytest.raises(LaternaError, match="has 256 positions"):
        next(Assistant(tiny_assistant).stream(None, words))
    many = next(n for n in range(400) if asked_length(tiny_assistant, n) > 250)
    room = 256 - asked_length(tiny_assistant, many) + 1
    assert 0 < room <= 6
    asked = prompt("apple " * many)
    (ids,) = generate_tokens(tiny_assistant, [asked], Decoding(max_new_tokens=50))
    assert len(ids) == room or (len(ids) < room and ids[-1] in tiny_assistant.end_of_turn())


def asked_length(assistant: VisionLanguageModel, words: int) -> int:
    turns, _ = prompt("apple " * words)
    return len(tokenize_prompt(turns, assistant.tokenizer, assistant.template))
