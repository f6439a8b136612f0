"""The encoder and the connector as llama.cpp's `mmproj` file, the LLaVA kind.

Keys and names of tensors are those of llama.cpp's `clip` (tools/mtmd).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from laterna.data.pictures import CLIP_MEAN_COLOUR
from laterna.errors import LaternaError
from laterna.model.exporters.gguf_writing import add_tensor, gguf_writer
from laterna.model.exporters.parts import (
    Layer,
    connector_layers,
    insist_on_squares,
    vision_weights,
)
from laterna.model.vlm import VisionLanguageModel

FORMAT = "llama.cpp's LLaVA"
ACTIVATIONS: dict[str, bool] = {"quick_gelu": False, "gelu": True}
"""`clip.use_gelu`, by the encoder's activation; without it llama.cpp takes the quick GELU."""
MODULES: dict[str, str] = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.out_proj": "attn_out",
    "layer_norm1": "ln1",
    "layer_norm2": "ln2",
    "mlp.fc1": "ffn_up",
    "mlp.fc2": "ffn_down",
}
"""A CLIP layer's modules by their names in the file."""


def write_picture_half(assistant: VisionLanguageModel, path: Path, dtype: torch.dtype) -> None:
    """Write encoder and connector; raises LaternaError for what the format cannot hold."""
    _insist_on_vision(assistant)
    first, second = _projector(connector_layers(assistant, FORMAT))
    config = assistant.vision.model.config
    weights = vision_weights(assistant)
    with gguf_writer(path, "clip", dtype) as writer:
        _add_settings(writer, assistant)
        for name, weight in _stem(weights).items():
            add_tensor(writer, name, weight, dtype)
        for layer in range(_layers_run(assistant)):
            swapped = config.intermediate_size == config.hidden_size
            for name, weight in _block(weights, layer, swapped=swapped).items():
                add_tensor(writer, name, weight, dtype)
        for number, linear in ((0, first), (2, second)):
            add_tensor(writer, f"mm.{number}.weight", linear.weight, dtype)
            add_tensor(writer, f"mm.{number}.bias", linear.bias, dtype)


def _insist_on_vision(assistant: VisionLanguageModel) -> None:
    insist_on_squares(assistant, FORMAT)
    tower, prepare = assistant.vision, assistant.prepare
    config = tower.model.config
    reason = ""
    if config.model_type != "clip_vision_model":
        reason = f"an encoder of type {config.model_type}: {FORMAT} reads CLIP's vision model only"
    elif config.hidden_act not in ACTIVATIONS:
        reason = f"an encoder with {config.hidden_act}: {FORMAT} has {', '.join(ACTIVATIONS)}"
    elif tower.class_token:
        reason = f"vision.class_token = true: {FORMAT} drops the class token"
    elif tower.final_norm:
        reason = f"vision.final_norm = true: {FORMAT} takes features as the layers leave them"
    elif prepare.fit != "pad":
        reason = f"vision.fit = {prepare.fit!r}: {FORMAT} always pads a picture to a square"
    elif prepare.mean_colour != CLIP_MEAN_COLOUR:
        reason = f"padding with {prepare.mean_colour}: {FORMAT} always pads with CLIP's mean colour"
    if reason:
        raise LaternaError(f"cannot be exported: {reason}")


def _projector(layers: list[Layer]) -> tuple[Layer, Layer]:
    """Return the two layers of the file, between which llama.cpp always puts a GELU.

    A single layer y = Wx + b goes through it unchanged, for gelu(y) - gelu(-y) = y, whichever of
    GELU's formulas is used: the first layer gives y and -y, the second takes their difference.
    """
    if len(layers) == 2:
        return layers[0], layers[1]
    ((weight, bias),) = layers
    same = torch.eye(len(bias), dtype=weight.dtype, device=weight.device)
    return (
        Layer(torch.cat([weight, -weight]), torch.cat([bias, -bias])),
        Layer(torch.cat([same, -same], dim=1), torch.zeros_like(bias)),
    )


def _layers_run(assistant: VisionLanguageModel) -> int:
    tower = assistant.vision
    return int(tower.layer % (int(tower.model.config.num_hidden_layers) + 1))


def _add_settings(writer: Any, assistant: VisionLanguageModel) -> None:
    config, prepare = assistant.vision.model.config, assistant.prepare
    width = int(assistant.language.get_input_embeddings().embedding_dim)
    layers = _layers_run(assistant)
    writer.add_string("general.name", "Laterna: vision encoder and connector")
    for name, holds in (
        ("clip.has_text_encoder", False),
        ("clip.has_vision_encoder", True),
        ("clip.has_llava_projector", True),
        ("clip.use_gelu", ACTIVATIONS[config.hidden_act]),
    ):
        writer.add_bool(name, holds)
    writer.add_string("clip.projector_type", "mlp")
    for name, number in {
        "image_size": prepare.size,
        "patch_size": config.patch_size,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "projection_dim": getattr(config, "projection_dim", None) or width,
        "block_count": layers,
        "attention.head_count": config.num_attention_heads,
    }.items():
        writer.add_uint32(f"clip.vision.{name}", int(number))
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", float(config.layer_norm_eps))
    writer.add_array(
        "clip.vision.image_mean", [float(part) for part in prepare.processor.image_mean]
    )
    writer.add_array("clip.vision.image_std", [float(part) for part in prepare.processor.image_std])
    # Left to itself llama.cpp runs one block fewer than the file holds; this names the state to
    # take, counted from the embeddings at 0.
    writer.add_array("clip.vision.feature_layer", [layers])


def _stem(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        "v.class_embd": weights["embeddings.class_embedding"],
        "v.patch_embd.weight": weights["embeddings.patch_embedding.weight"],
        "v.position_embd.weight": weights["embeddings.position_embedding.weight"],
        "v.pre_ln.weight": weights["pre_layrnorm.weight"],
        "v.pre_ln.bias": weights["pre_layrnorm.bias"],
    }


def _block(weights: dict[str, Tensor], layer: int, *, swapped: bool) -> dict[str, Tensor]:
    """Return one layer's tensors by their names in the file.

    Old files had `ffn_up` and `ffn_down` in each other's place, and llama.cpp swaps them back
    where `ffn_down` takes the encoder's width. Where both are as wide as each other it always
    does: there, `swapped`, they have to stand in the wrong place.
    """
    others = {"ffn_up": "ffn_down", "ffn_down": "ffn_up"} if swapped else {}
    return {
        f"v.blk.{layer}.{others.get(name, name)}.{kind}": weights[
            f"encoder.layers.{layer}.{module}.{kind}"
        ]
        for module, name in MODULES.items()
        for kind in ("weight", "bias")
    }
