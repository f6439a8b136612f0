"""Export to llama.cpp: `model.gguf` (the language model) and `mmproj.gguf` (encoder, connector).

llama.cpp, llama-cpp-python, Ollama, LM Studio and koboldcpp read the pair. Keys and names of the
second's tensors are those of llama.cpp's `clip` (tools/mtmd).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from laterna.data.images.fitting import CLIP_MEAN_COLOUR
from laterna.errors import LaternaError
from laterna.model.exporters.gguf_text import add_tensor, gguf_writer, write_text_half
from laterna.model.exporters.parts import (
    PRECISIONS,
    Layer,
    connector_layers,
    require_squares,
    vision_weights,
)
from laterna.model.vlm import VisionLanguageModel

TEXT_FILE = "model.gguf"
IMAGE_FILE = "mmproj.gguf"
FORMAT = "llama.cpp's LLaVA"
ACTIVATIONS: dict[str, bool] = {"quick_gelu": False, "gelu": True}
"""`clip.use_gelu`, by the encoder's activation; without it llama.cpp takes the quick GELU."""


def export_gguf(assistant: VisionLanguageModel, folder: Path, precision: str = "f16") -> None:
    """Write the pair of files to a new folder; precision `f16` (default) or `f32`.

    In `f16` norms and biases stay `f32`. Raises LaternaError for what llama.cpp's LLaVA cannot
    hold.
    """
    dtype = PRECISIONS[precision]
    folder.mkdir()
    write_image_half(assistant, folder / IMAGE_FILE, dtype)
    write_text_half(assistant, folder / TEXT_FILE, dtype)


def write_image_half(assistant: VisionLanguageModel, path: Path, dtype: torch.dtype) -> None:
    """Write encoder and connector; raises LaternaError for what the format cannot hold."""
    _require_vision(assistant)
    first, second = _projector(connector_layers(assistant, FORMAT))
    with gguf_writer(path, "clip", dtype) as writer:
        _add_settings(writer, assistant)
        for name, weight in _encoder(assistant):
            add_tensor(writer, name, weight, dtype)
        for number, linear in ((0, first), (2, second)):
            add_tensor(writer, f"mm.{number}.weight", linear.weight, dtype)
            add_tensor(writer, f"mm.{number}.bias", linear.bias, dtype)


def _require_vision(assistant: VisionLanguageModel) -> None:
    require_squares(assistant, FORMAT)
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
        reason = f"vision.fit = {prepare.fit!r}: {FORMAT} always pads an image to a square"
    elif prepare.mean_colour != CLIP_MEAN_COLOUR:
        reason = f"padding with {prepare.mean_colour}: {FORMAT} always pads with CLIP's mean colour"
    if reason:
        raise LaternaError(f"cannot be exported: {reason}")


def _projector(layers: list[Layer]) -> tuple[Layer, Layer]:
    """Return the two layers of the file, between which llama.cpp always puts a GELU.

    A single layer y = Wx + b is written as two that leave it unchanged: the first gives y and -y,
    the second the difference gelu(y) - gelu(-y), which is y by each of GELU's formulas.
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
    # Without this llama.cpp runs one block fewer than the file has. It is the hidden state to use,
    # counted from the embeddings at 0.
    writer.add_array("clip.vision.feature_layer", [layers])


def _encoder(assistant: VisionLanguageModel) -> Iterator[tuple[str, Tensor]]:
    """Yield the encoder's tensors that run, by the names that the package `gguf` has for them.

    Old files had `ffn_up` and `ffn_down` exchanged, and llama.cpp exchanges them back where
    `ffn_down` takes the encoder's width. Where both are equally wide it always does, so there they
    are written exchanged.
    """
    from gguf import MODEL_ARCH, get_tensor_name_map

    config = assistant.vision.model.config
    names = get_tensor_name_map(MODEL_ARCH.MMPROJ, _layers_run(assistant))
    swapped = {"ffn_up": "ffn_down", "ffn_down": "ffn_up"}
    for own, weight in vision_weights(assistant).items():
        name = names.get_name(f"vision_tower.vision_model.{own}", (".weight", ".bias"))
        if name is None or name.startswith("v.post_ln"):
            continue
        if config.intermediate_size == config.hidden_size:
            name = ".".join(swapped.get(part, part) for part in name.split("."))
        yield name, weight
