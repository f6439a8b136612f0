"""Export to Hugging Face: a `LlavaForConditionalGeneration` with its processor.

Anything that reads `llava-hf` folders reads it: transformers, vLLM, SGLang, trl. The processor's
tokens and pixels are compared with the assistant's before it is written.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import (
    GenerationConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaImageProcessorPil,
    LlavaProcessor,
)

from laterna.data.chat import UnusableError
from laterna.data.masking import tokenize_prompt
from laterna.errors import LaternaError
from laterna.model.exporters.parts import (
    PRECISIONS,
    Layer,
    connector_layers,
    end_names,
    language_weights,
    require_squares,
    vision_weights,
    with_rows,
)
from laterna.model.exporters.template import taking_lists
from laterna.model.pretrained import quiet_transformers
from laterna.model.vlm import VisionLanguageModel
from laterna.records import DEFAULT_IMAGE_TOKEN, IMAGE_TOKEN_INDEX, Turn

FORMAT = "Hugging Face's LLaVA"
LEADING: dict[str, int] = {"clip_vision_model": 1, "siglip_vision_model": 0, "dinov2": 1}
"""Encoders that the format takes, and how many tokens they put before the patches."""
PIXEL_TOLERANCE = 1e-4
"""Of a normalized pixel; one grey level is about 0.015."""


def export_hf(assistant: VisionLanguageModel, folder: Path, precision: str = "f32") -> None:
    """Write model and processor as a new `llava-hf` folder, in `f32` (default), `f16` or `bf16`.

    The tokenizer gets an `<image>` token where it has none, and the embedding a row for it. Raises
    LaternaError for an encoder, connector or language model that the format cannot hold, and where
    the processor's tokens or pixels differ from the assistant's.
    """
    _require_vision(assistant)
    _require_language(assistant)
    layers = _projector(assistant)
    tokenizer = copy.deepcopy(assistant.tokenizer)
    if DEFAULT_IMAGE_TOKEN not in tokenizer.get_vocab():
        tokenizer.add_special_tokens(
            {"additional_special_tokens": [DEFAULT_IMAGE_TOKEN]}, replace_extra_special_tokens=False
        )
    processor = _processor(assistant, tokenizer)
    require_equal_prompts(assistant, processor)
    model = _model(assistant, layers, processor.image_token_id)
    folder.mkdir()
    with quiet_transformers():
        model.to(PRECISIONS[precision]).save_pretrained(folder)
        processor.save_pretrained(folder)


def _require_vision(assistant: VisionLanguageModel) -> None:
    require_squares(assistant, FORMAT)
    tower = assistant.vision
    kind = str(tower.model.config.model_type)
    if kind not in LEADING:
        raise LaternaError(
            f"an encoder of type {kind} cannot be exported: {FORMAT} reads "
            f"{', '.join(LEADING)} as Laterna does, others in another way or not at all"
        )
    if tower.final_norm:
        raise LaternaError(
            f"vision.final_norm = true cannot be exported: {FORMAT} takes features as the layers "
            "leave them"
        )


def _require_language(assistant: VisionLanguageModel) -> None:
    kind = assistant.language.config.model_type
    if not assistant.plain_head:
        raise LaternaError(
            f"a language model of type {kind} cannot be exported: it scales or caps its logits "
            f"after the head, and {FORMAT} does not"
        )
    if getattr(assistant.language.get_output_embeddings(), "bias", None) is not None:
        raise LaternaError(
            f"a language model of type {kind} cannot be exported: its head has a bias, and the "
            f"head of {FORMAT} has none"
        )


def _projector(assistant: VisionLanguageModel) -> list[Layer]:
    """Return the two layers of the projector; a single one is followed by the identity."""
    layers = connector_layers(assistant, FORMAT)
    if len(layers) == 2:
        return layers
    width = len(layers[0].bias)
    return [*layers, Layer(torch.eye(width), torch.zeros(width))]


def _config(assistant: VisionLanguageModel, image_token: int, rows: int) -> Any:
    tower, language, prepare = assistant.vision, assistant.language, assistant.prepare
    text = language.config.to_dict()
    text["vocab_size"] = rows
    single = len(connector_layers(assistant, FORMAT)) == 1
    return LlavaConfig(
        vision_config=tower.model.config.to_dict(),
        text_config=text,
        image_token_index=image_token,
        image_seq_length=assistant.image_tokens(prepare.size, prepare.size),
        projector_hidden_act="linear" if single else "gelu",
        multimodal_projector_bias=True,
        vision_feature_layer=tower.layer,
        vision_feature_select_strategy=_strategy(assistant),
        tie_word_embeddings=bool(language.config.tie_word_embeddings),
    )


def _strategy(assistant: VisionLanguageModel) -> str:
    tower = assistant.vision
    drops = LEADING[str(tower.model.config.model_type)] and not tower.class_token
    return "default" if drops else "full"


@torch.no_grad()
def _model(assistant: VisionLanguageModel, layers: list[Layer], image_token: int) -> Any:
    """Build the model around the assistant's own tensors; nothing is drawn or copied."""
    language = assistant.language
    weights = language_weights(assistant)
    embedding, head = end_names(language)
    rows = max(len(weights[embedding]), image_token + 1)
    ends = {name: with_rows(weights[name], rows) for name in (embedding, head)}
    weights |= ends
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(_config(assistant, image_token, rows))
    prefix = f"{language.base_model_prefix}."
    decoder = {
        name.removeprefix(prefix): weight
        for name, weight in weights.items()
        if name.startswith(prefix)
    }
    model.model.language_model.load_state_dict(decoder, assign=True)
    model.lm_head.load_state_dict({"weight": ends[head]}, assign=True)
    model.model.vision_tower.load_state_dict(vision_weights(assistant), assign=True)
    projector = model.model.multi_modal_projector
    for linear, layer in zip((projector.linear_1, projector.linear_2), layers, strict=True):
        linear.load_state_dict(layer._asdict(), assign=True)
    if language.config.tie_word_embeddings:
        model.tie_weights()
    ids = assistant.end_of_turn()
    pad = assistant.tokenizer.pad_token_id
    model.generation_config = GenerationConfig(
        bos_token_id=assistant.tokenizer.bos_token_id,
        eos_token_id=ids,
        pad_token_id=ids[0] if pad is None else pad,
    )
    return model.eval()


def _processor(assistant: VisionLanguageModel, tokenizer: Any) -> Any:
    prepare, tower = assistant.prepare, assistant.vision
    own, fit = prepare.processor, prepare.fit
    square = {"height": prepare.size, "width": prepare.size}
    crops = fit == "crop"
    images = LlavaImageProcessorPil(
        size={"shortest_edge": prepare.size} if crops else square,
        crop_size=square,
        do_center_crop=crops,
        do_pad=fit == "pad",
        resample=own.resample,
        rescale_factor=own.rescale_factor,
        image_mean=own.image_mean,
        image_std=own.image_std,
    )
    adds_bos = tokenizer.bos_token_id in tokenizer("a").input_ids
    alone, spaced = (
        tokenizer(f"b{DEFAULT_IMAGE_TOKEN}{words}", add_special_tokens=False).input_ids
        for words in ("a", " a")
    )
    behind = tokenizer("a", add_special_tokens=False).input_ids
    space_after = alone[-len(behind) :] != behind == spaced[-len(behind) :]
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=int(tower.model.config.patch_size),
        vision_feature_select_strategy=_strategy(assistant),
        num_additional_image_tokens=LEADING[str(tower.model.config.model_type)],
        image_token=DEFAULT_IMAGE_TOKEN,
        chat_template=taking_lists(
            assistant.template, without_bos=adds_bos, space_after=space_after
        ),
    )


CHATS: tuple[tuple[Turn, ...], ...] = (
    (Turn(role="user", text=f"{DEFAULT_IMAGE_TOKEN}\nWhat is on the table?"),),
    (
        Turn(role="user", text=f"{DEFAULT_IMAGE_TOKEN}\nHow many apples are there, 2 or 3?"),
        Turn(role="assistant", text="There are 3 apples."),
        Turn(role="user", text="And are they red?"),
    ),
    (Turn(role="user", text="Hello."),),
)


def require_equal_prompts(assistant: VisionLanguageModel, processor: Any) -> None:
    """Compare an exported processor's tokens and pixels with the assistant's own.

    Turns go in as text and as lists of pieces. Raises LaternaError on any difference, with the
    place where it begins.
    """
    noise = np.random.default_rng(0).integers(0, 256, (37, 52, 3), dtype=np.uint8)
    images = [Image.fromarray(noise)]
    for chat in CHATS:
        try:
            ids = tokenize_prompt(chat, assistant.tokenizer, assistant.template)
        except UnusableError:
            continue  # a template for captions takes no conversation
        shown = images if IMAGE_TOKEN_INDEX in ids else []
        counts = [assistant.image_tokens(*image.size) for image in shown]
        expanded = assistant.fusion.expand(ids, counts)
        ours = [
            processor.image_token_id if token == IMAGE_TOKEN_INDEX else token for token in expanded
        ]
        for messages in (_as_text(chat), _as_pieces(chat)):
            with quiet_transformers():
                text = processor.apply_chat_template(messages, add_generation_prompt=True)
                adds = not _starts_with_bos(text, processor.tokenizer)
                inputs = processor(
                    images=shown or None, text=text, add_special_tokens=adds, return_tensors="pt"
                )
            _require_same_ids(ours, inputs["input_ids"][0].tolist(), processor.tokenizer)
            if shown:
                _require_same_pixels(assistant.prepare(shown), inputs["pixel_values"])


def _starts_with_bos(text: str, tokenizer: Any) -> bool:
    return bool(tokenizer.bos_token) and text.startswith(tokenizer.bos_token)


def _as_text(chat: Sequence[Turn]) -> list[dict[str, Any]]:
    return [{"role": turn.role, "content": turn.text} for turn in chat]


def _as_pieces(chat: Sequence[Turn]) -> list[dict[str, Any]]:
    return [{"role": turn.role, "content": _pieces(turn.text)} for turn in chat]


def _pieces(text: str) -> list[dict[str, str]]:
    words = text.removeprefix(f"{DEFAULT_IMAGE_TOKEN}\n")
    image = [{"type": "image"}] if words != text else []
    return [*image, {"type": "text", "text": words}]


def _require_same_ids(ours: list[int], theirs: list[int], tokenizer: Any) -> None:
    if ours == theirs:
        return
    pairs = enumerate(zip(ours, theirs, strict=False))
    place = next((at for at, (a, b) in pairs if a != b), min(len(ours), len(theirs)))
    raise LaternaError(
        "the exported processor would not read a chat as this assistant does: from token "
        f"{place} on {tokenizer.decode(theirs[place : place + 6])!r} instead of "
        f"{tokenizer.decode(ours[place : place + 6])!r}; its tokenizer or chat template cannot be "
        "exported"
    )


def _require_same_pixels(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    difference = float((ours - theirs).abs().max()) if ours.shape == theirs.shape else float("inf")
    if difference > PIXEL_TOLERANCE:
        raise LaternaError(
            "the exported processor would not prepare an image as this assistant does: shapes "
            f"{tuple(theirs.shape)} and {tuple(ours.shape)}, largest difference {difference:.3g}"
        )
