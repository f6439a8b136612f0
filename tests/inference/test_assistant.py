"""What `laterna.load` returns: questions and images in several forms, sampling, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import laterna
from laterna.errors import LaternaError
from laterna.inference.assistant import Assistant
from laterna.inference.generation import Decoding, generate_answers
from laterna.model.vlm import VisionLanguageModel
from laterna.records import Turn

QUESTION = "<image>\nWhat colour is the bicycle?"
BARE = "What colour is the bicycle?"
RED = Image.new("RGB", (20, 30), (200, 30, 30))
GREEN = Image.new("RGB", (30, 20), (30, 200, 30))


@pytest.fixture
def assistant(tiny_assistant: VisionLanguageModel) -> Assistant:
    return Assistant(tiny_assistant)


def greedy(model: VisionLanguageModel, *prompts: Any) -> list[str]:
    return generate_answers(model, list(prompts), Decoding(max_new_tokens=8))


def test_answers_are_generations(assistant: Assistant) -> None:
    turns = [Turn(role="user", text=QUESTION)]
    expected = greedy(assistant.model, (turns, [RED]))[0]
    assert assistant.answer(RED, BARE, max_new_tokens=8) == expected
    assert assistant.answer(RED, turns, max_new_tokens=8) == expected
    pieces = assistant.stream(RED, BARE, max_new_tokens=8)
    assert "".join(pieces).strip() == expected
    without = greedy(assistant.model, ([Turn(role="user", text=BARE)], []))
    assert assistant.answer(None, BARE, max_new_tokens=8) == without[0]


def test_an_image_may_be_a_path_a_text_or_opened(assistant: Assistant, tmp_path: Path) -> None:
    path = tmp_path / "red.png"
    RED.save(path)
    answers = {assistant.answer(one, BARE, max_new_tokens=8) for one in (path, str(path), RED)}
    assert len(answers) == 1
    grey = Image.new("L", (20, 30), 90)
    assert assistant.answer(grey, BARE, max_new_tokens=8) == assistant.answer(
        grey.convert("RGB"), BARE, max_new_tokens=8
    )


def test_a_list_of_pairs_is_a_batch(assistant: Assistant) -> None:
    pairs = [(RED, BARE), (None, "How many apples?"), (GREEN, "Is it red?")]
    together = assistant.answer(pairs, max_new_tokens=8)
    assert together == [assistant.answer(*pair, max_new_tokens=8) for pair in pairs]
    assert assistant.answer([], max_new_tokens=8) == []


def test_a_seed_draws_the_same_answer_and_leaves_torch_alone(assistant: Assistant) -> None:
    def drawn(seed: int, temperature: float = 1.5) -> str:
        return assistant.answer(RED, BARE, max_new_tokens=12, temperature=temperature, seed=seed)

    before = torch.random.get_rng_state()
    answers = [drawn(seed) for seed in range(4)]
    assert torch.equal(torch.random.get_rng_state(), before)
    assert [drawn(seed) for seed in range(4)] == answers
    assert len(set(answers)) > 1
    plain = assistant.answer(RED, BARE, max_new_tokens=12)
    assert drawn(0, temperature=1e-4) == plain
    narrow = assistant.answer(RED, BARE, max_new_tokens=12, temperature=1.0, top_p=1e-6, seed=1)
    assert narrow == plain


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens = 0: give at least 1"),
        ({"temperature": -1.0}, "temperature = -1.0: give 0"),
        ({"temperature": float("nan")}, "temperature = nan"),
        ({"top_p": 0.0}, "top_p = 0.0"),
        ({"top_p": 1.5}, "top_p = 1.5"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    assistant: Assistant, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(LaternaError, match=message):
        assistant.answer(RED, BARE, **arguments)


def test_what_is_no_image_or_question_is_refused(assistant: Assistant, tmp_path: Path) -> None:
    with pytest.raises(LaternaError, match=r"gone\.png: no such image"):
        assistant.answer(str(tmp_path / "gone.png"), BARE)
    with pytest.raises(LaternaError, match="an image of type int"):
        assistant.answer(3, BARE)  # type: ignore[call-overload]
    with pytest.raises(LaternaError, match="a question is missing"):
        assistant.answer(RED)  # type: ignore[call-overload]
    with pytest.raises(LaternaError, match="is not an \\(image, question\\) pair"):
        assistant.answer([RED])  # type: ignore[list-item]
    with pytest.raises(LaternaError, match="not empty"):
        assistant.answer(RED, "")


def test_a_device_or_dtype_that_is_not_there_is_refused(
    assistant: Assistant, tmp_path: Path
) -> None:
    folder = assistant.save(tmp_path / "checkpoint")
    with pytest.raises(LaternaError, match="device = 'abacus': cannot be used here"):
        laterna.load(folder, device="abacus")
    with pytest.raises(LaternaError, match="dtype = 'int7': use one of float32"):
        laterna.load(folder, dtype="int7")
    assert laterna.load(folder, device="cpu").model.language.dtype == torch.float32


def test_it_answers_in_bfloat16(assistant: Assistant, tmp_path: Path) -> None:
    folder = assistant.save(tmp_path / "checkpoint")
    half = laterna.load(folder, device="cpu", dtype="bfloat16")
    assert {weight.dtype for weight in half.model.parameters()} == {torch.bfloat16}
    logits = half.logits([RED], "<s>USER: <image>\nWhat is it?")
    whole = assistant.logits([RED], "<s>USER: <image>\nWhat is it?")
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits.float(), whole, atol=0.15, rtol=0.1)
    assert isinstance(half.answer(RED, BARE, max_new_tokens=4), str)
