"""Floating-point operations of training, from those of one square, one token, one pair, one target.

They are counted once, on shapes alone, by torch's own counter: the parts run forward and backward
on the meta device with what the stage trains, so a frozen part costs what it costs. Training's MFU
and the planner's hours follow from them.

Shapes: d width · r rows · t tokens of a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from laterna.model.attention.varlen import SEGMENTS, count_pairs, segment_list
from laterna.model.language.quantize import is_quantized
from laterna.model.vlm import VisionLanguageModel
from laterna.recipe import PartName
from laterna.records import Batch

META = torch.device("meta")
TOKENS = 32
"""Length of the rows that are counted: once, and twice as long."""


class StepCost(NamedTuple):
    """FLOPs by what they are for; a multiplication with its addition is two.

    The work of the model alone: what activation checkpointing computes again is not in it.
    """

    vision: float
    """Of the encoder, for one square that it sees: an image, or a tile of one."""
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

    def by_part(
        self, *, seen: float, connected: float, tokens: float, pairs: float, targets: float
    ) -> dict[PartName, float]:
        """Return each part's FLOPs for so many squares seen and connected, and so much text."""
        language = tokens * self.token + pairs * self.pair + targets * self.target
        return {
            "vision": seen * self.vision,
            "connector": connected * self.connector,
            "language": language,
        }

    def of(self, batches: Sequence[Batch], length: int) -> float:
        """Return the FLOPs of micro-batches that hold `length` tokens beside their padding.

        Padding is not counted: its rows are as expensive, and its work is none.
        """
        seen = connected = tokens = pairs = targets = 0.0
        for batch in batches:
            seen += 0 if batch.pixels_bchw is None else len(batch.pixels_bchw)
            given = batch.features_bnd if batch.pixels_bchw is None else batch.pixels_bchw
            connected += 0 if given is None else len(given)
            tokens += batch.input_ids_rt.numel()
            pairs += self._pairs(batch)
            targets += int(batch.loss_mask_rt.sum())
        real = length / tokens if tokens else 0.0
        found = self.by_part(
            seen=seen,
            connected=connected,
            tokens=tokens * real,
            pairs=pairs * real,
            targets=targets,
        )
        return sum(found.values())

    def _pairs(self, batch: Batch) -> int:
        if self.by_segments:
            return count_pairs(segment_list(batch.sharing, batch.position_ids_rt))
        return batch.input_ids_rt.numel() * batch.input_ids_rt.shape[1]


class Cost(NamedTuple):
    """What a model costs as it stands: with the stage that was applied to it."""

    forward: StepCost
    training: StepCost
    """Forward and backward."""


def count_cost(model: VisionLanguageModel) -> StepCost | None:
    """Return what training costs a model to which a stage was applied.

    Returns None for models that decide by numbers what to compute, which shapes alone do not tell,
    and for quantized ones.
    """
    if is_quantized(model.language):
        return None  # packed weights have no shape that a product could be counted on
    try:
        return cost_of(model).training
    except (NotImplementedError, RuntimeError):
        return None


def cost_of(model: VisionLanguageModel) -> Cost:
    """Count what a model costs to which a stage was applied; it may lie on the meta device.

    Raises torch's RuntimeError or NotImplementedError for a model that decides by numbers what to
    compute.
    """
    by_segments = model.language.config._attn_implementation == SEGMENTS
    with _plain_attention(model):
        counted = _count(model)
    forward, training = (StepCost._make((*numbers, by_segments)) for numbers in counted)
    return Cost(forward, training)


def _count(model: VisionLanguageModel) -> Iterator[tuple[float, ...]]:
    """Return the numbers of a `StepCost`, forward alone and with the backward pass."""
    tower, connector, language = model.vision, model.connector, model.language
    table = language.get_input_embeddings().weight
    size = model.prepare.size
    sees, connects = _trains(tower), _trains(tower) or _trains(connector)
    flows = connects or bool(table.requires_grad)
    learns = flows or _trains(language.get_decoder())
    row = _Row(model)
    vision = _flops(tower, _blank(1, 3, size, size, like=table))
    features_bnd = _blank(1, tower.patches, tower.width, like=table, grad=sees)
    connected = _flops(connector, features_bnd)
    once, twice = (
        _flops(row, _blank(1, tokens, table.shape[1], like=table, grad=flows))
        for tokens in (TOKENS, 2 * TOKENS)
    )
    head = language.get_output_embeddings()
    target = _flops(head, _blank(1, table.shape[1], like=table, grad=learns))
    # Twice the tokens are four times the pairs.
    pairs = [(two - 2 * one) / (2 * TOKENS**2) for one, two in zip(once, twice, strict=True)]
    tokens = [one / TOKENS - pair * TOKENS for one, pair in zip(once, pairs, strict=True)]
    return zip(vision, connected, tokens, pairs, target, strict=True)


class _Row(nn.Module):
    """The decoder over one row, under a mask, as rows of several samples need one."""

    def __init__(self, model: VisionLanguageModel) -> None:
        super().__init__()
        self.fusion, self.language = model.fusion, model.language

    def forward(self, images_rmd: Tensor) -> Tensor:
        tokens = images_rmd.shape[1]
        mask = torch.empty(1, 1, tokens, tokens, dtype=torch.bool, device=META)
        states: Tensor = self.fusion.rehearse(self.language, images_rmd, 0, mask=mask)
        return states


def _flops(module: nn.Module, inputs: Tensor) -> tuple[float, float]:
    """Count a module's forward pass, and it with the backward pass, with meta tensors in the place
    of its weights.
    """
    held = dict(module.named_parameters()) | dict(module.named_buffers())
    state = {name: _like(tensor) for name, tensor in held.items()}
    with FlopCounterMode(display=False) as counter:
        output = functional_call(module, state, (inputs,))
        forward = counter.get_total_flops()
        if output.requires_grad:
            output.backward(torch.empty_like(output))
    return float(forward), float(counter.get_total_flops())


@contextmanager
def _plain_attention(model: VisionLanguageModel) -> Iterator[None]:
    """Let both models attend by products that torch counts, meanwhile."""
    with ExitStack() as stack:
        for part in (model.language, model.vision.model):
            name = getattr(part.config, "_attn_implementation", None)
            if name not in (None, "eager", "sdpa"):
                stack.callback(part.set_attn_implementation, name)
                part.set_attn_implementation("eager")  # which every model has
        yield


def _like(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, device=META).requires_grad_(tensor.requires_grad)


def _blank(*shape: int, like: Tensor, grad: bool = False) -> Tensor:
    return torch.empty(shape, dtype=like.dtype, device=META, requires_grad=grad)


def _trains(module: nn.Module) -> bool:
    return any(weight.requires_grad for weight in module.parameters())
