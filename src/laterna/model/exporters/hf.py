"""Export to Hugging Face: a `LlavaForConditionalGeneration` with its processor.

Anything that reads `llava-hf` folders reads it: transformers, vLLM, SGLang, trl.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaImageProcessorPil,
    LlavaProcessor,
)

from laterna.errors import LaternaError
from laterna.model.exporters.parts import (
    Layer,
    connector_layers,
    end_names,
    insist_on_squares,
    language_weights,
    precision_of,
    vision_weights,
    with_rows,
)
from laterna.model.exporters.proof import insist_on_equal_prompts
from laterna.model.exporters.template import accepting_pieces
from laterna.model.pretrained import quiet_transformers
from laterna.model.vlm import VisionLanguageModel
from laterna.records import PICTURE_MARK

FORMAT = "Hugging Face's LLaVA"
LEADING: dict[str, int] = {"clip_vision_model": 1, "siglip_vision_model": 0, "dinov2": 1}
"""Encoders that the format takes, and how many tokens they put before the patches."""


def export_hf(assistant: VisionLanguageModel, folder: Path, precision: str = "") -> None:
    """Write model and processor as a new `llava-hf` folder, in `f32` (default), `f16` or `bf16`.

    The tokenizer gets an `<image>` token where it has none, the embedding a row for it. The
    processor's tokens and pixels are compared with the assistant's own before anything is kept.
    Raises LaternaError for an encoder, connector or language model that the format cannot hold.
    """
    dtype = precision_of(precision, ("f32", "f16", "bf16"))
    _insist_on_vision(assistant)
    _insist_on_language(assistant)
    layers = _projector(assistant)
    tokenizer = copy.deepcopy(assistant.tokenizer)
    if PICTURE_MARK not in tokenizer.get_vocab():
        tokenizer.add_special_tokens(
            {"additional_special_tokens": [PICTURE_MARK]}, replace_extra_special_tokens=False
        )
    processor = _processor(assistant, tokenizer)
    insist_on_equal_prompts(assistant, processor)
    model = _model(assistant, layers, processor.image_token_id)
    folder.mkdir()
    with quiet_transformers():
        model.to(dtype).save_pretrained(folder)
        processor.save_pretrained(folder)


def _insist_on_vision(assistant: VisionLanguageModel) -> None:
    insist_on_squares(assistant, FORMAT)
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


def _insist_on_language(assistant: VisionLanguageModel) -> None:
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


def _config(assistant: VisionLanguageModel, picture_token: int, rows: int) -> Any:
    tower, language, prepare = assistant.vision, assistant.language, assistant.prepare
    text = language.config.to_dict()
    text["vocab_size"] = rows
    single = len(connector_layers(assistant, FORMAT)) == 1
    return LlavaConfig(
        vision_config=tower.model.config.to_dict(),
        text_config=text,
        image_token_index=picture_token,
        image_seq_length=assistant.picture_tokens(prepare.size, prepare.size),
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
def _model(assistant: VisionLanguageModel, layers: list[Layer], picture_token: int) -> Any:
    """Build the model around the assistant's own tensors; nothing is drawn or copied."""
    language = assistant.language
    weights = language_weights(assistant)
    embedding, head = end_names(language)
    rows = max(len(weights[embedding]), picture_token + 1)
    ends = {name: with_rows(weights[name], rows) for name in (embedding, head)}
    weights |= ends
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(_config(assistant, picture_token, rows))
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
    pictures = LlavaImageProcessorPil(
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
        tokenizer(f"b{PICTURE_MARK}{words}", add_special_tokens=False).input_ids
        for words in ("a", " a")
    )
    behind = tokenizer("a", add_special_tokens=False).input_ids
    space_after = alone[-len(behind) :] != behind == spaced[-len(behind) :]
    return LlavaProcessor(
        image_processor=pictures,
        tokenizer=tokenizer,
        patch_size=int(tower.model.config.patch_size),
        vision_feature_select_strategy=_strategy(assistant),
        num_additional_image_tokens=LEADING[str(tower.model.config.model_type)],
        image_token=PICTURE_MARK,
        chat_template=accepting_pieces(
            assistant.template, without_bos=adds_bos, space_after=space_after
        ),
    )
