"""The same weights in Laterna and in transformers' own LLaVA give the same numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from msgspec import structs
from PIL import Image
from transformers import (
    AutoModelForCausalLM,
    CLIPImageProcessorPil,
    CLIPVisionModel,
    LlavaConfig,
)
from transformers import LlavaForConditionalGeneration as Llava

from laterna.data.batches import collate
from laterna.data.masking import tokenize_prompt, tokenize_text
from laterna.inference.generation import Decoding, generate_tokens
from laterna.model.connectors import build_connector
from laterna.model.vision import VisionTower
from laterna.model.vlm import VisionLanguageModel
from laterna.recipe import ConnectorSettings
from laterna.records import IMAGE_TOKEN_INDEX, Pack, Sample, Turn

from ..tiny import clip_config

IMAGE_TOKEN = 97
"""An id of the tiny vocabulary that no text here holds: an image in transformers' LLaVA."""


@pytest.fixture
def llava(tiny_assistant: VisionLanguageModel, tiny_models: Path) -> Any:
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


def images(count: int) -> list[Image.Image]:
    random = np.random.default_rng(5)
    return [
        Image.fromarray(random.integers(0, 255, (40, 28, 3), dtype=np.uint8)) for _ in range(count)
    ]


def expanded(ids: list[int]) -> torch.Tensor:
    assert IMAGE_TOKEN not in ids
    repeated = [[IMAGE_TOKEN] * 4 if token == IMAGE_TOKEN_INDEX else [token] for token in ids]
    return torch.tensor([[token for tokens in repeated for token in tokens]])


@pytest.mark.parametrize("count", [1, 2])
def test_logits_agree(tiny_assistant: VisionLanguageModel, llava: Any, count: int) -> None:
    text = "<s>USER: " + "<image>\n" * count + "What colour is the bicycle? ASSISTANT: Red"
    shown = images(count)
    ours = tiny_assistant.logits(shown, text)
    with torch.no_grad():
        theirs = llava(
            input_ids=expanded(tokenize_text(text, tiny_assistant.tokenizer)),
            pixel_values=tiny_assistant.prepare(shown),
        ).logits[0]
    assert ours.shape == theirs.shape
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


TEXTS = {
    "<s>USER: <image>\nWhat colour is the bicycle? ASSISTANT: Red, and it is small": 1,
    "<s>USER: <image> and <image> ASSISTANT: Two": 2,
    "<s>USER: Is there a banana to the left of the cup? ASSISTANT: No": 0,
}
"""Chats of different lengths, with the number of their images."""


def padded(rows: list[torch.Tensor], side: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and attention mask of rows (1, t) in one batch, padded on a side."""
    width = max(row.shape[1] for row in rows)
    ids, mask = [], []
    for row in rows:
        missing = width - row.shape[1]
        edges = (missing, 0) if side == "left" else (0, missing)
        ids.append(torch.nn.functional.pad(row[0], edges, value=0))
        mask.append(torch.nn.functional.pad(torch.ones_like(row[0]), edges, value=0))
    return torch.stack(ids), torch.stack(mask)


@pytest.mark.parametrize("side", ["left", "right"])
def test_batches_agree_on_both_padding_sides(
    tiny_assistant: VisionLanguageModel, llava: Any, side: str
) -> None:
    shown = images(3)
    tokenizer = tiny_assistant.tokenizer
    rows = [expanded(tokenize_text(text, tokenizer)) for text in TEXTS]
    assert len({row.shape[1] for row in rows}) == 3
    ids, mask = padded(rows, side)
    with torch.no_grad():
        theirs = llava(
            input_ids=ids, attention_mask=mask, pixel_values=tiny_assistant.prepare(shown)
        ).logits
    batch = collate([Pack(samples=(sample(text, tokenizer),)) for text in TEXTS])
    batch = structs.replace(batch, pixels_bchw=tiny_assistant.prepare(shown))
    with torch.no_grad():
        batched = tiny_assistant.language.get_output_embeddings()(
            tiny_assistant.hidden_states(batch)
        )
    remaining = list(shown)
    for row, (text, count) in enumerate(TEXTS.items()):
        seen, remaining = remaining[:count], remaining[count:]
        expected = theirs[row][mask[row].bool()]
        alone = tiny_assistant.logits(seen, text)
        torch.testing.assert_close(alone, expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(batched[row, : len(alone)], expected, atol=1e-5, rtol=0)


def sample(text: str, tokenizer: Any) -> Sample:
    ids = tokenize_text(text, tokenizer)
    slots = tuple(place for place, token in enumerate(ids) if token == IMAGE_TOKEN_INDEX)
    return Sample(
        id=text,
        input_ids=tuple(ids),
        targets=(False,) * len(ids),
        image_slots=slots,
        image_tokens=(4,) * len(slots),
        images=tuple(str(slot) for slot in slots),
    )


def test_greedy_answers_of_a_mixed_batch_agree(
    tiny_assistant: VisionLanguageModel, llava: Any
) -> None:
    shown = images(3)
    prompts = [
        ([Turn(role="user", text="<image>\nWhat colour is it?")], shown[:1]),
        ([Turn(role="user", text="<image> or <image>: which is striped?")], shown[1:]),
        ([Turn(role="user", text="Is there a banana? Look at all of it, and say so.")], []),
    ]
    ours = generate_tokens(tiny_assistant, prompts, Decoding(max_new_tokens=24))
    tokenizer = tiny_assistant.tokenizer
    template = tiny_assistant.template
    rows = [expanded(tokenize_prompt(turns, tokenizer, template)) for turns, _ in prompts]
    ids, mask = padded(rows, "left")
    with torch.no_grad():
        whole = llava.generate(
            input_ids=ids,
            attention_mask=mask,
            pixel_values=tiny_assistant.prepare(shown),
            do_sample=False,
            max_new_tokens=24,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    for answer, theirs in zip(ours, whole[:, ids.shape[1] :].tolist(), strict=True):
        assert answer == theirs[: len(answer)]
        assert set(theirs[len(answer) :]) <= {tokenizer.pad_token_id}
    assert len({tuple(answer) for answer in ours}) == 3


@pytest.mark.parametrize(("side", "tokens"), [(224, 256), (336, 576)])
def test_tokens_at_the_real_shape(side: int, tokens: int) -> None:
    """ViT-L/14 and a 7B language model's width, on the meta device."""
    vision = clip_config(1024, 4096, 24, 16, side)
    square = {"height": side, "width": side}
    processor = CLIPImageProcessorPil(size=square, crop_size=square)
    with torch.device("meta"):
        config = LlavaConfig(vision_config=vision.to_dict(), text_config={"num_hidden_layers": 1})
        whole = Llava(config)
        pixels = torch.empty(2, 3, side, side)
        theirs = whole.model.get_image_features(pixel_values=pixels).pooler_output
        tower = VisionTower(CLIPVisionModel(vision), processor, layer=-2)
        connector = build_connector(ConnectorSettings(), tower.width, 4096)
        ours = connector(tower(pixels))
    assert connector.tokens(tower.patches) == tokens
    assert ours.shape == (2, tokens, 4096)
    assert [tuple(image.shape) for image in theirs] == [(tokens, 4096)] * 2


def test_greedy_answers_agree_token_for_token(
    tiny_assistant: VisionLanguageModel, llava: Any
) -> None:
    shown = images(3)
    questions = ["What colour is it?", "Is there a banana? Look at all of it.", "How many?"]
    prompts = [
        ([Turn(role="user", text=f"<image>\n{question}")], [image])
        for question, image in zip(questions, shown, strict=True)
    ]
    ours = generate_tokens(tiny_assistant, prompts, Decoding(max_new_tokens=24))
    tokenizer = tiny_assistant.tokenizer
    for answer, (turns, one) in zip(ours, prompts, strict=True):
        ids = expanded(tokenize_prompt(turns, tokenizer, tiny_assistant.template))
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
