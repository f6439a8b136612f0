"""FLOPs of a training step, from those of one image, one token, one pair of tokens and one target.

They are counted once, on shapes alone, by torch's own counter: the parts run forward and backward
on the meta device, where only what the stage trains has a backward pass. Training's MFU and the
planner's hours follow from them.

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
"""Tokens of the rows that are counted: so many, and twice as many."""


class StepCost(NamedTuple):
    """FLOPs by what they are for; a multiplication with its addition is two.

    What activation checkpointing computes again is not counted.
    """

    vision: float
    """Of the encoder, for each square image or tile."""
    connector: float
    """For each of them too."""
    token: float
    """Of the decoder, for each token of a row."""
    pair: float
    """Of its attention, for each pair of tokens of a row, masked or not."""
    target: float
    """Of the head, for each target token."""
    media: float = 0.0
    """Of the fusion's cross-attention, for each image token."""
    media_pair: float = 0.0
    """Of the same, for each pair of a token of the row and a token of one image."""
    media_tokens: int = 0
    """Tokens of a square that cross-attention reads; 0: they are in the row."""
    by_segments: bool = False
    """Whether the attention computes the pairs of each segment alone (`attention.varlen`)."""

    def by_part(
        self,
        *,
        encoded: float,
        connected: float,
        tokens: float,
        pairs: float,
        targets: float,
        media_pairs: float,
    ) -> dict[PartName, float]:
        """Return each part's FLOPs for so many squares encoded and connected, and so much text."""
        language = tokens * self.token + pairs * self.pair + targets * self.target
        language += connected * self.media_tokens * self.media + media_pairs * self.media_pair
        return {
            "vision": encoded * self.vision,
            "connector": connected * self.connector,
            "language": language,
        }

    def of(self, batches: Sequence[Batch], length: int) -> float:
        """Return the FLOPs of micro-batches that hold `length` tokens without their padding.

        Padding is computed too, but it is no work of the model, so it is not counted.
        """
        encoded = connected = tokens = pairs = targets = 0
        for batch in batches:
            pixels = batch.pixels_bchw
            images = batch.features_bnd if pixels is None else pixels
            encoded += 0 if pixels is None else len(pixels)
            connected += 0 if images is None else len(images)
            tokens += batch.input_ids_rt.numel()
            pairs += self._pairs(batch)
            targets += int(batch.loss_mask_rt.sum())
        found = self.by_part(
            encoded=encoded,
            connected=connected,
            tokens=length,
            pairs=pairs * length / max(1, tokens),
            targets=targets,
            media_pairs=length * self.media_tokens,
        )
        return sum(found.values())

    def _pairs(self, batch: Batch) -> int:
        if self.by_segments:
            return count_pairs(segment_list(batch.sharing, batch.position_ids_rt))
        return batch.input_ids_rt.numel() * batch.input_ids_rt.shape[1]


class Cost(NamedTuple):
    """What a model costs as it stands, by what a stage trains of it."""

    forward: StepCost
    training: StepCost
    """Forward and backward."""


def count_cost(model: VisionLanguageModel) -> StepCost | None:
    """Return what training costs; `apply_stage` must have set what trains.

    None where shapes alone do not tell: for encoder-decoders, for quantized models, and for models
    that decide by numbers what to compute.
    """
    if model.fusion.encodes:
        return None  # it depends on how a row is split between encoder and decoder
    if is_quantized(model.language):
        return None  # packed weights do not have the shapes of their products
    try:
        return cost_of(model).training
    except (NotImplementedError, RuntimeError):
        # Any operator on the meta device may raise either where it needs numbers. `Meter.line`
        # then says that MFU is not known.
        return None


def cost_of(model: VisionLanguageModel) -> Cost:
    """Count what a model costs, forward and in training; it may lie on the meta device.

    `apply_stage` must have set what trains. Raises torch's RuntimeError or NotImplementedError for
    a model that decides by numbers what to compute.
    """
    by_segments = model.language.config._attn_implementation == SEGMENTS
    with _plain_attention(model):
        counted = _count(model)
    media = model.connector.tokens(model.vision.patches) if model.fusion.beside_row else 0
    forward, training = (StepCost._make((*one, media, by_segments)) for one in counted)
    return Cost(forward, training)


def _count(model: VisionLanguageModel) -> Iterator[tuple[float, ...]]:
    """Return the numbers of a `StepCost`, forward alone and with the backward pass."""
    tower, connector, language = model.vision, model.connector, model.language
    table = language.get_input_embeddings().weight
    size = model.prepare.size
    # Each part's inputs need a gradient where anything before the part trains.
    into_connector = _trains(tower)
    into_decoder = into_connector or _trains(connector) or bool(table.requires_grad)
    into_head = into_decoder or _trains(language.get_decoder())
    vision = _flops(tower, _blank(1, 3, size, size, like=table))
    features_bnd = _blank(1, tower.patches, tower.width, like=table, grad=into_connector)
    connected = _flops(connector, features_bnd)
    rows = [
        _row_flops(model, width, media, grad=into_decoder)
        for media in ((TOKENS, 2 * TOKENS) if model.fusion.beside_row else (0,))
        for width in (TOKENS, 2 * TOKENS)
    ]
    if not model.fusion.beside_row:
        rows *= 2  # there are no image tokens outside the row to double
    head = language.get_output_embeddings()
    target = _flops(head, _blank(1, table.shape[1], like=table, grad=into_head))
    solved = zip(*(_solved(*four) for four in zip(*rows, strict=True)), strict=True)
    tokens, pairs, media, media_pairs = solved
    return zip(vision, connected, tokens, pairs, target, media, media_pairs, strict=True)


def _solved(one: float, wide: float, more: float, both: float) -> tuple[float, ...]:
    """Return the FLOPs of a token, of a pair of tokens, of an image token outside the row, and of a
    pair with one, from those of four rows: `one`; one twice as `wide`; one with twice as many image
    tokens outside it (`more`); and one with `both`.
    """
    across = both - wide - more + one  # the pairs of tokens and image tokens, in the first row
    media = more - one - across
    alone, twice = one - media - across, wide - media - 2 * across
    # Twice the tokens have four times the pairs.
    pairs = (twice - 2 * alone) / 2
    return (alone - pairs) / TOKENS, pairs / TOKENS**2, media / TOKENS, across / TOKENS**2


def _row_flops(
    model: VisionLanguageModel, width: int, media: int, *, grad: bool
) -> tuple[float, float]:
    """Count a row of `width` positions: with one image of `media` tokens outside it, or, where that
    is 0, of image tokens alone.
    """
    table = model.language.get_input_embeddings().weight
    d_image = model.fusion.token_width(model.vision.width, table.shape[1])
    row = _Row(model, width, text=width - 1 if media else 0)
    return _flops(row, _blank(1, media or width, d_image, like=table, grad=grad))


class _Row(nn.Module):
    """The decoder over one row, under a mask, as rows of several samples need one."""

    def __init__(self, model: VisionLanguageModel, width: int, *, text: int) -> None:
        super().__init__()
        self.fusion, self.language = model.fusion, model.language
        self.width, self.text = width, text

    def forward(self, images_rmd: Tensor) -> Tensor:
        mask = torch.empty(1, 1, self.width, self.width, dtype=torch.bool, device=META)
        states: Tensor = self.fusion.rehearse(self.language, images_rmd, self.text, mask=mask)
        return states


def _flops(module: nn.Module, inputs: Tensor) -> tuple[float, float]:
    """Count a module's forward pass, alone and with the backward pass, its weights replaced by meta
    tensors.
    """
    own = dict(module.named_parameters()) | dict(module.named_buffers())
    state = {name: _like(tensor) for name, tensor in own.items()}
    with FlopCounterMode(display=False) as counter:
        output = functional_call(module, state, (inputs,))
        forward = counter.get_total_flops()
        if output.requires_grad:
            output.backward(torch.empty_like(output))
    return float(forward), float(counter.get_total_flops())


@contextmanager
def _plain_attention(model: VisionLanguageModel) -> Iterator[None]:
    """Let both models attend temporarily by matrix products, which torch counts."""
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
