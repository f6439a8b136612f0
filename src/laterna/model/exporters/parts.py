"""What every format needs: the parts' weights with adapters merged, and what none can express.

Shapes: d_vision, d_language widths of features and of embeddings.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from laterna.errors import LaternaError
from laterna.model.connectors import CONNECTORS
from laterna.model.connectors.linear import LinearConnector
from laterna.model.connectors.mlp import MlpConnector
from laterna.model.language.adapters import merged_weights
from laterna.model.language.causal import mean_rows
from laterna.model.vlm import VisionLanguageModel

PRECISIONS: dict[str, torch.dtype] = {
    "f32": torch.float32,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
}


class Layer(NamedTuple):
    """One linear layer of a connector: weight (out, in) and bias (out)."""

    weight: Tensor
    bias: Tensor


def connector_layers(assistant: VisionLanguageModel, format_name: str) -> list[Layer]:
    """Return the linear layers of a `linear` or `mlp` connector, a GELU between each two.

    Raises LaternaError for a connector of another kind.
    """
    connector = assistant.connector
    if isinstance(connector, LinearConnector):
        layers = [connector.project]
    elif isinstance(connector, MlpConnector):
        if connector.activation != "gelu" and len(connector.layers) > 1:
            raise LaternaError(
                f"connector.activation = {connector.activation!r} cannot be exported: "
                f"{format_name} has a GELU between the two layers"
            )
        layers = list(connector.layers)  # type: ignore[arg-type]
    else:
        kinds: dict[object, str] = {kind: name for name, kind in CONNECTORS.items()}
        kind = kinds.get(type(connector), type(connector).__name__)
        raise LaternaError(
            f"a {kind!r} connector cannot be exported: {format_name} has a perceptron of two "
            "layers between encoder and language model, which holds `linear` and `mlp` alone"
        )
    if len(layers) > 2:
        raise LaternaError(
            f"an mlp connector of depth {len(layers)} cannot be exported: {format_name} has two "
            "layers between encoder and language model"
        )
    return [Layer(layer.weight.detach(), layer.bias.detach()) for layer in layers]


def require_squares(assistant: VisionLanguageModel, format_name: str) -> None:
    """Raise LaternaError where images are not each one square of the encoder's own features."""
    if assistant.vision.mixing is not None:
        raise LaternaError(
            f"vision.mixing cannot be exported: {format_name} takes features as the encoder gives "
            "them"
        )
    if assistant.fusion.beside_row:
        raise LaternaError(
            f"fusion.kind = 'cross_attention' cannot be exported: {format_name} has image tokens "
            "within the text; use --to idefics, which takes CLIP with a Llama"
        )
    if assistant.fusion.encodes:
        raise LaternaError(
            f"an encoder with a decoder cannot be exported as {format_name}, which is for causal "
            "language models; --to blip2 can where encoder and connector are BLIP-2's"
        )
    if assistant.prepare.fit == "anyres":
        raise LaternaError(
            "vision.fit = 'anyres' cannot be exported: "
            f"{format_name} reads an image as one square, not as tiles"
        )


def vision_weights(assistant: VisionLanguageModel) -> dict[str, Tensor]:
    """Return every weight of the encoder by its Hugging Face name, unused layers included."""
    tower = assistant.vision
    return {**tower.weights(), **merged_weights(tower.model)}


def language_weights(assistant: VisionLanguageModel) -> dict[str, Tensor]:
    """Return every weight of the language model by its Hugging Face name."""
    return merged_weights(assistant.language)


def end_names(language: Any) -> tuple[str, str]:
    """Return the names of the embedding's and of the head's weight in a language model."""
    names = {id(module): name for name, module in language.named_modules()}
    ends = (language.get_input_embeddings(), language.get_output_embeddings())
    embedding, head = (f"{names[id(end)]}.weight" for end in ends)
    return embedding, head


def with_rows(weight: Tensor, rows: int) -> Tensor:
    """Return a weight (rows, d) with mean rows added up to a number, as `grow_embedding` does."""
    lacking = rows - len(weight)
    return weight if lacking <= 0 else torch.cat([weight, mean_rows(weight, lacking)])
