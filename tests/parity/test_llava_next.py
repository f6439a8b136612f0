"""AnyRes: the same weights in Laterna and in transformers' LLaVA-NeXT give the same numbers."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlavaNextConfig,
    LlavaNextProcessor,
)
from transformers import LlavaNextForConditionalGeneration as LlavaNext
from transformers.models.llava_next.image_processing_pil_llava_next import (
    LlavaNextImageProcessorPil,
)

from laterna.data.images.fitting import ImagePreparer
from laterna.data.images.tokens import best_tiling, tiled_tokens
from laterna.inference.generation import Decoding, generate_tokens
from laterna.model.build import build_from_recipe
from laterna.model.checkpoint import load_checkpoint, save_checkpoint
from laterna.model.vlm import VisionLanguageModel
from laterna.recipe import Recipe, VisionSettings
from laterna.records import Turn

from ..tiny import clip_config, save_clip

SIDE, PATCH = 84, 14
GRIDS = VisionSettings(source="").grids
PINPOINTS = [[rows * SIDE, columns * SIDE] for rows, columns in GRIDS]
MARK = "<image>"
IMAGE_TOKEN = 97
"""An id of the tiny vocabulary that no text here holds; the processor's own lies outside it."""


class Pair(NamedTuple):
    """One assistant in two programs."""

    ours: VisionLanguageModel
    theirs: Any
    processor: Any

    def inputs(self, images: list[Image.Image], text: str) -> Any:
        """Return what their processor makes of images and a text."""
        made = self.processor(
            images=images, text=text, return_tensors="pt", add_special_tokens=False
        )
        assert not (made["input_ids"] == IMAGE_TOKEN).any()
        made["input_ids"][made["input_ids"] == self.processor.image_token_id] = IMAGE_TOKEN
        return made


@pytest.fixture
def anyres_recipe(tiny_recipe: Recipe, tmp_path: Path) -> Recipe:
    """The tiny recipe with an encoder of 6 × 6 patches, so that there is something to unpad."""
    torch.manual_seed(1)
    source = save_clip(tmp_path / "vision", clip_config(layers=2, side=SIDE))
    vision = VisionSettings(source=str(source), fit="anyres")
    return msgspec.structs.replace(tiny_recipe, vision=vision)


@pytest.fixture
def pair(anyres_recipe: Recipe) -> Pair:
    ours = build_from_recipe(anyres_recipe)
    tokenizer = copy.deepcopy(ours.tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": [MARK]})
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig.from_pretrained(anyres_recipe.vision.source).to_dict(),
        text_config=ours.language.config.to_dict(),
        image_grid_pinpoints=PINPOINTS,
        image_token_index=IMAGE_TOKEN,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )
    theirs = LlavaNext(config).eval()
    theirs.model.vision_tower.load_state_dict(ours.vision.weights())
    theirs.model.language_model.load_state_dict(ours.language.model.state_dict())
    theirs.lm_head.load_state_dict(ours.language.lm_head.state_dict())
    first, second = ours.connector.layers  # type: ignore[misc]
    theirs.model.multi_modal_projector.linear_1.load_state_dict(first.state_dict())
    theirs.model.multi_modal_projector.linear_2.load_state_dict(second.state_dict())
    theirs.model.image_newline.data = ours.connector.image_newline.detach().clone()
    square = {"height": SIDE, "width": SIDE}
    processor = LlavaNextProcessor(
        image_processor=LlavaNextImageProcessorPil(
            image_grid_pinpoints=PINPOINTS, size=square, crop_size=square
        ),
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token=MARK,
    )
    return Pair(ours, theirs, processor)


def sizes(count: int) -> list[tuple[int, int]]:
    random = np.random.default_rng(2)
    drawn = np.exp(random.uniform(np.log(20), np.log(500), (count, 2))).astype(int)
    return [(int(width), int(height)) for width, height in drawn]


def noise(size: tuple[int, int]) -> Image.Image:
    random = np.random.default_rng(size)
    return Image.fromarray(random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


@torch.no_grad()
def test_features_and_counts_agree_for_fifty_sizes(pair: Pair) -> None:
    counts = set()
    for size in sizes(50):
        image = noise(size)
        inputs = pair.inputs([image], MARK)
        expected = pair.theirs.model.get_image_features(
            inputs["pixel_values"], inputs["image_sizes"]
        ).pooler_output[0]
        (tokens,) = pair.ours.encode_images([image])
        assert tokens.shape == expected.shape, size
        torch.testing.assert_close(tokens, expected, atol=1e-5, rtol=0)
        counted = pair.ours.image_tokens(*size)
        places = int((inputs["input_ids"] == IMAGE_TOKEN).sum())
        assert counted == places == len(tokens), size
        counts.add(counted)
    assert len(counts) > 15  # the sizes differ in what they take


@torch.no_grad()
def test_logits_agree_with_images_of_several_sizes_in_one_text(pair: Pair) -> None:
    images = [noise((200, 90)), noise((60, 300))]
    text = f"<s>USER: {MARK}\n{MARK}\nWhat colour is it? ASSISTANT: Red"
    inputs = pair.inputs(images, text)
    expected = pair.theirs(**inputs).logits[0]
    ours = pair.ours.logits(images, text)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)


def test_greedy_answers_agree_token_for_token(pair: Pair) -> None:
    prompts = [
        ([Turn(role="user", text=f"{MARK}\nWhat is it?")], [noise(size)])
        for size in ((200, 90), (60, 300), (77, 80))
    ]
    ours = generate_tokens(pair.ours, prompts, Decoding(max_new_tokens=16))
    tokenizer = pair.ours.tokenizer
    for answer, (turns, images) in zip(ours, prompts, strict=True):
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": turns[0].text}], tokenize=False, add_generation_prompt=True
        )
        inputs = pair.inputs(images, text)
        with torch.no_grad():
            whole = pair.theirs.generate(
                **inputs,
                do_sample=False,
                max_new_tokens=16,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        assert answer == whole[0, inputs["input_ids"].shape[1] :].tolist()


def test_a_checkpoint_holds_the_newline(pair: Pair, anyres_recipe: Recipe, tmp_path: Path) -> None:
    assert pair.ours.connector.image_newline is not None
    save_checkpoint(tmp_path / "saved", pair.ours, anyres_recipe, stage="align", figures={})
    again = load_checkpoint(tmp_path / "saved")
    assert torch.equal(again.connector.image_newline, pair.ours.connector.image_newline)
    image = noise((200, 90))
    with torch.no_grad():
        assert torch.equal(again.encode_images([image])[0], pair.ours.encode_images([image])[0])


def test_counts_at_the_real_shape() -> None:
    """ViT-L/14 at 336 px has 24 × 24 = 576 tokens a tile; the sums are LLaVA-NeXT's own."""
    counts = {
        size: tiled_tokens(best_tiling(*size, GRIDS, 336), 24)
        for size in ((672, 672), (336, 672), (640, 480), (1920, 400))
    }
    assert counts[(672, 672)] == 576 + 48 * 48 + 48
    assert counts[(336, 672)] == 576 + 48 * 24 + 48
    assert counts[(640, 480)] == 576 + 36 * 48 + 36
    assert counts[(1920, 400)] == 576 + 16 * 72 + 16


def test_tiles_are_normalized_as_the_encoder_wants() -> None:
    processor = CLIPImageProcessorPil(image_mean=[0.5] * 3, image_std=[0.5] * 3)
    white = ImagePreparer(processor, "anyres", GRIDS)([Image.new("RGB", (448, 224), "white")])
    assert white.shape == (3, 3, 224, 224)
    assert white.min() == white.max() == 1.0
