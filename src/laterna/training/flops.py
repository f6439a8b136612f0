"""Floating-point operations of a step, from those of one picture, one token and one target.

They are counted once, on shapes alone, by torch's own counter: the parts run forward and backward
on the meta device with what the stage trains, so a frozen part costs what it costs.

Shapes: b pictures · c channels · h, w pixels · n features a picture · d width · t tokens of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from laterna.model.attention.shared_prefix import plain_attention
from laterna.model.attention.varlen import SEGMENTS, count_pairs, segment_list
from laterna.model.language.quantize import is_quantised
from laterna.model.vlm import VisionLanguageModel
from laterna.records import Batch

META = torch.device("meta")
TOKENS = 32
"""Length of the rows that are counted: once, and twice as long."""


class StepCost(NamedTuple):
    """FLOPs of training, forward and backward; a multiplication with its addition is two.

    The work of the model alone: what activation checkpointing computes again is not in it.
    """

    vision: float
    """Of the encoder, for one square that it sees: a picture, or a tile of one."""
    connector: float
    """For one square too."""
    token: float
    """Of the decoder, for each token of a row."""
    pair: float
    """Of its attention, for each pair of tokens of a row, whether they see each other or not."""
    target: float
    """Of the head, for each target token."""
    by_segments: bool = False
    """Whether the attention computes the pairs of each segment alone (`attention.varlen`)."""

    def of(self, batches: Sequence[Batch], length: int) -> float:
        """Return the FLOPs of micro-batches that hold `length` tokens beside their padding.

        Padding is not counted: its rows are as expensive, and its work is none.
        """
        rows = reading = tokens = targets = 0.0
        for batch in batches:
            given = batch.features_bnd if batch.pixels_bchw is None else batch.pixels_bchw
            if given is not None:
                sees = 0.0 if batch.pixels_bchw is None else self.vision
                rows += len(given) * (sees + self.connector)
            computed = batch.input_ids_rt.numel()
            reading += computed * self.token + self._pairs(batch) * self.pair
            tokens += computed
            targets += int(batch.targets_rt.sum())
        return rows + (reading * length / tokens if tokens else 0.0) + targets * self.target

    def _pairs(self, batch: Batch) -> int:
        if self.by_segments:
            return count_pairs(segment_list(batch.sharing, batch.position_ids_rt))
        return batch.input_ids_rt.numel() * batch.input_ids_rt.shape[1]


def count_cost(assistant: VisionLanguageModel) -> StepCost | None:
    """Count what training costs an assistant to which a stage was applied.

    Returns None for models that decide by numbers what to compute, which shapes alone do not tell,
    and for quantised ones.
    """
    if is_quantised(assistant.language):
        return None  # packed weights have no shape that a product could be counted on
    try:
        with plain_attention(assistant.language):
            return _count(assistant)
    except (NotImplementedError, RuntimeError):
        return None


def _count(assistant: VisionLanguageModel) -> StepCost:
    tower, connector, language = assistant.vision, assistant.connector, assistant.language
    table = language.get_input_embeddings().weight
    size = assistant.prepare.size
    sees, connects = _trains(tower), _trains(tower) or _trains(connector)
    flows = connects or bool(table.requires_grad)
    decoder, head = language.get_decoder(), language.get_output_embeddings()

    def read(tokens: int) -> float:
        """Count the decoder over one row, under a mask, as rows of several samples need one."""
        embeds_rtd = _blank(1, tokens, table.shape[1], like=table, grad=flows)
        return _flops(
            decoder,
            inputs_embeds=embeds_rtd,
            position_ids=torch.empty(1, tokens, dtype=torch.long, device=META),
            attention_mask=torch.empty(1, 1, tokens, tokens, dtype=torch.bool, device=META),
            use_cache=False,
        )

    once, twice = read(TOKENS), read(2 * TOKENS)
    pair = (twice - 2 * once) / (2 * TOKENS**2)
    learns = flows or _trains(decoder)
    return StepCost(
        vision=_flops(tower, _blank(1, 3, size, size, like=table)),
        connector=_flops(connector, _blank(1, tower.patches, tower.width, like=table, grad=sees)),
        token=once / TOKENS - pair * TOKENS,
        pair=pair,
        target=_flops(head, _blank(1, table.shape[1], like=table, grad=learns)),
        by_segments=language.config._attn_implementation == SEGMENTS,
    )


def _flops(module: nn.Module, *args: Tensor, **kwargs: Any) -> float:
    """Count a module's forward and backward pass, with meta tensors in its weights' place."""
    held = dict(module.named_parameters()) | dict(module.named_buffers())
    state = {name: _like(tensor) for name, tensor in held.items()}
    with FlopCounterMode(display=False) as counter:
        output = functional_call(module, state, args, kwargs)
        output = getattr(output, "last_hidden_state", output)
        if output.requires_grad:
            output.backward(torch.empty_like(output))
    return float(counter.get_total_flops())


def _like(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, device=META).requires_grad_(tensor.requires_grad)


def _blank(*shape: int, like: Tensor, grad: bool = False) -> Tensor:
    return torch.empty(shape, dtype=like.dtype, device=META, requires_grad=grad)


def _trains(module: nn.Module) -> bool:
    return any(weight.requires_grad for weight in module.parameters())
