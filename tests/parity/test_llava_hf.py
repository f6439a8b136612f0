"""The same weights in Laterna and in transformers' own LLaVA give the same numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForCausalLM, CLIPVisionModel, LlavaConfig
from transformers import LlavaForConditionalGeneration as Llava

from laterna.data.masking import tokenise_prompt, tokenise_text
from laterna.model.assistant import Assistant
from laterna.model.generation import generate_tokens
from laterna.records import PICTURE_TOKEN, Turn

IMAGE_TOKEN = 97
"""An id of the tiny vocabulary that no text here holds: a picture in transformers' LLaVA."""


@pytest.fixture
def llava(tiny_assistant: Assistant, tiny_models: Path) -> Any:
    vision = CLIPVisionModel.from_pretrained(tiny_models / "vision")
    language = AutoModelForCausalLM.from_pretrained(tiny_models / "language")
    config = LlavaConfig(
        vision_config=vision.config.to_dict(),
        text_config=language.config.to_dict(),
        image_token_index=IMAGE_TOKEN,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    model = Llava(config).eval()
    model.model.vision_tower.load_state_dict(vision.state_dict())
    model.model.language_model.load_state_dict(language.model.state_dict())
    model.lm_head.load_state_dict(language.lm_head.state_dict())
    first, second = tiny_assistant.connector.layers  # type: ignore[misc]
    model.model.multi_modal_projector.linear_1.load_state_dict(first.state_dict())
    model.model.multi_modal_projector.linear_2.load_state_dict(second.state_dict())
    return model


def pictures(count: int) -> list[Image.Image]:
    random = np.random.default_rng(5)
    return [
        Image.fromarray(random.integers(0, 255, (40, 28, 3), dtype=np.uint8)) for _ in range(count)
    ]


def expanded(ids: list[int]) -> torch.Tensor:
    assert IMAGE_TOKEN not in ids
    repeated = [[IMAGE_TOKEN] * 4 if token == PICTURE_TOKEN else [token] for token in ids]
    return torch.tensor([[token for tokens in repeated for token in tokens]])


@pytest.mark.parametrize("count", [1, 2])
def test_logits_agree(tiny_assistant: Assistant, llava: Any, count: int) -> None:
    text = "<s>USER: " + "<image>\n" * count + "What colour is the bicycle? ASSISTANT: Red"
    shown = pictures(count)
    ours = tiny_assistant.logits(shown, text)
    with torch.no_grad():
        theirs = llava(
            input_ids=expanded(tokenise_text(text, tiny_assistant.tokenizer)),
            pixel_values=tiny_assistant.prepare(shown),
        ).logits[0]
    assert ours.shape == theirs.shape
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_greedy_answers_agree_token_for_token(tiny_assistant: Assistant, llava: Any) -> None:
    shown = pictures(3)
    questions = ["What colour is it?", "Is there a banana? Look at all of it.", "How many?"]
    prompts = [
        ([Turn(role="user", text=f"<image>\n{question}")], [picture])
        for question, picture in zip(questions, shown, strict=True)
    ]
    ours = generate_tokens(tiny_assistant, prompts, max_new_tokens=24)
    tokenizer = tiny_assistant.tokenizer
    for answer, (turns, one) in zip(ours, prompts, strict=True):
        ids = expanded(tokenise_prompt(turns, tokenizer, tiny_assistant.template))
        with torch.no_grad():
            whole = llava.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                pixel_values=tiny_assistant.prepare(one),
                do_sample=False,
                max_new_tokens=24,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        assert answer == whole[0, ids.shape[1] :].tolist()
    assert (
        len({tuple(answer) for answer in ours}) == 3
    )  # the answers depend on what was asked and shown
