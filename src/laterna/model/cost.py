"""Floating-point operations of training, from those of one square, one token, one pair, one target.

They are counted once, on shapes alone, by torch's own counter: the parts run forward and backward
on the meta device with what the stage trains, so a frozen part costs what it costs. Training's MFU
and the planner's hours follow from them.

Shapes: d width · r rows · t tokens of a row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from laterna.model.attention.varlen import SEGMENTS, count_pairs, segment_list
from laterna.model.fusion.encoder_decoder import answers_of
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
    """Of the head, for each target token; of the decoder too, where it writes those alone."""
    beside: float = 0.0
    """Of the fusion's blocks, for each token of an image that they look at beside the row."""
    beside_pair: float = 0.0
    """Of their attention, for each pair of a token of the row and such a token, of one image."""
    beside_tokens: int = 0
    """Such tokens, for one square."""
    by_segments: bool = False
    """Whether the attention computes the pairs of each segment alone (`attention.varlen`)."""
    target_pair: float = 0.0
    """Of an encoder-decoder: for each pair of target tokens of an answer. `token` and `pair` are
    then of what its encoder reads."""
    target_read: float = 0.0
    """The same for each pair of a target token and a token that is read for it."""

    def by_part(
        self,
        *,
        seen: float,
        connected: float,
        tokens: float,
        pairs: float,
        targets: float,
        beside_pairs: float = 0.0,
        target_pairs: float = 0.0,
        target_reads: float = 0.0,
    ) -> dict[PartName, float]:
        """Return each part's FLOPs for so many squares seen and connected, and so much text."""
        language = tokens * self.token + pairs * self.pair + targets * self.target
        language += target_pairs * self.target_pair + target_reads * self.target_read
        language += connected * self.beside_tokens * self.beside + beside_pairs * self.beside_pair
        return {
            "vision": seen * self.vision,
            "connector": connected * self.connector,
            "language": language,
        }

    def of(self, batches: Sequence[Batch], length: int) -> float:
        """Return the FLOPs of micro-batches that hold `length` tokens beside their padding.

        Padding is not counted: its rows are as expensive, and its work is none.
        """
        seen = connected = tokens = pairs = targets = beside_pairs = 0.0
        for batch in batches:
            seen += 0 if batch.pixels_bchw is None else len(batch.pixels_bchw)
            given = batch.features_bnd if batch.pixels_bchw is None else batch.pixels_bchw
            connected += 0 if given is None else len(given)
            tokens += batch.input_ids_rt.numel()
            pairs += self._pairs(batch)
            targets += int(batch.loss_mask_rt.sum())
            beside_pairs += batch.input_ids_rt.numel() * self.beside_tokens
        if self.target_read:
            return sum(self.by_part(seen=seen, connected=connected, **_answered(batches)).values())
        real = length / tokens if tokens else 0.0
        found = self.by_part(
            seen=seen,
            connected=connected,
            tokens=tokens * real,
            pairs=pairs * real,
            targets=targets,
            beside_pairs=beside_pairs * real,
        )
        return sum(found.values())

    def _pairs(self, batch: Batch) -> int:
        if self.by_segments:
            return count_pairs(segment_list(batch.sharing, batch.position_ids_rt))
        return batch.input_ids_rt.numel() * batch.input_ids_rt.shape[1]


def _answered(batches: Sequence[Batch]) -> dict[str, float]:
    """Count what an encoder-decoder reads and writes, by the names of `StepCost.by_part`."""
    counts: Counter[str] = Counter()
    for batch in batches:
        spans = list(answers_of(batch))
        for _, read in {(one.row, one.read) for one in spans}:
            counts["tokens"] += len(read)
            counts["pairs"] += len(read) ** 2
        for one in spans:
            written = one.end - one.begin
            counts["targets"] += written
            counts["target_pairs"] += written**2
            counts["target_reads"] += written * len(one.read)
    return {name: float(counts[name]) for name in _ANSWERED}


_ANSWERED = ("tokens", "pairs", "targets", "target_pairs", "target_reads")


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
        counted = list(_count(model))
    beside = model.connector.tokens(model.vision.patches) if model.fusion.beside_row else 0
    forward, training = (
        StepCost._make((*one[:7], beside, by_segments, *(one[7:] or (0.0, 0.0))))
        for one in zip(*counted, strict=True)
    )
    return Cost(forward, training)


def _count(model: VisionLanguageModel) -> Iterator[tuple[float, ...]]:
    """Yield each number of a `StepCost`, forward alone and with the backward pass."""
    tower, connector, language = model.vision, model.connector, model.language
    table = language.get_input_embeddings().weight
    size = model.prepare.size
    sees, connects = _trains(tower), _trains(tower) or _trains(connector)
    flows = connects or bool(table.requires_grad)
    learns = flows or _trains(language.get_decoder())
    vision = _flops(tower, _blank(1, 3, size, size, like=table))
    features_bnd = _blank(1, tower.patches, tower.width, like=table, grad=sees)
    connected = _flops(connector, features_bnd)
    head = language.get_output_embeddings()
    target = _flops(head, _blank(1, table.shape[1], like=table, grad=learns))
    yield from (vision, connected)
    if model.fusion.encodes:
        yield from _answer_flops(model, target, grad=flows)
        return
    rows = [
        _row_flops(model, width, beside, grad=flows)
        for beside in (TOKENS, 2 * TOKENS)
        for width in (TOKENS, 2 * TOKENS)
    ]
    solved = zip(*(_solved(*four) for four in zip(*rows, strict=True)), strict=True)
    tokens, pairs, beside, beside_pairs = solved
    yield from (tokens, pairs, target, beside, beside_pairs)


def _answer_flops(
    model: VisionLanguageModel, head: tuple[float, float], *, grad: bool
) -> Iterator[tuple[float, ...]]:
    """Yield the rest of a `StepCost` of an encoder-decoder: from readings and answers of one, two
    and three lengths, what grows with each, with its square, and with both.
    """
    table = model.language.get_input_embeddings().weight

    def flops(read: int, written: int) -> tuple[float, float]:
        images = _blank(1, read * TOKENS, table.shape[1], like=table, grad=grad)
        return _flops(_Row(model, written * TOKENS), images)

    lengths = ((1, 1), (2, 1), (3, 1), (1, 2), (1, 3), (2, 2))
    found = []
    for one, wide, wider, more, most, both in zip(*(flops(*two) for two in lengths), strict=True):
        pair, target_pair = (wider - 2 * wide + one) / 2, (most - 2 * more + one) / 2
        across = both - wide - more + one
        token, target = wide - one - 3 * pair - across, more - one - 3 * target_pair - across
        squares = (pair / TOKENS**2, target_pair / TOKENS**2, across / TOKENS**2)
        found.append((token / TOKENS, target / TOKENS, *squares))
    tokens, targets, pairs, target_pairs, target_reads = zip(*found, strict=True)
    targets = tuple(one + own for one, own in zip(targets, head, strict=True))
    nothing = (0.0, 0.0)
    yield from (tokens, pairs, targets, nothing, nothing, target_pairs, target_reads)


def _solved(one: float, wide: float, more: float, both: float) -> tuple[float, ...]:
    """Return the FLOPs of a token, a pair of tokens, a token beside, and a pair with one: from a
    row, one twice as wide, one with twice as much beside it, and one with both.
    """
    beside_pair = (both - wide - more + one) / TOKENS**2
    across = beside_pair * TOKENS**2
    beside = (more - one - across) / TOKENS
    # Twice the tokens are four times the pairs.
    alone, twice = one - beside * TOKENS - across, wide - beside * TOKENS - 2 * across
    pair = (twice - 2 * alone) / (2 * TOKENS**2)
    return alone / TOKENS - pair * TOKENS, pair, beside, beside_pair


def _row_flops(
    model: VisionLanguageModel, width: int, beside: int, *, grad: bool
) -> tuple[float, float]:
    """Count a row of `width` positions, `beside` tokens beside it where the fusion has any."""
    table, fusion = model.language.get_input_embeddings().weight, model.fusion
    tokens = beside if fusion.beside_row else width
    d_image = fusion.token_width(model.vision.width, table.shape[1])
    return _flops(_Row(model, width), _blank(1, tokens, d_image, like=table, grad=grad))


class _Row(nn.Module):
    """The decoder over one row, under a mask, as rows of several samples need one."""

    def __init__(self, model: VisionLanguageModel, width: int) -> None:
        super().__init__()
        self.fusion, self.language, self.width = model.fusion, model.language, width

    def forward(self, images_rmd: Tensor) -> Tensor:
        width = self.width
        if self.fusion.encodes:  # which reads the images alone, and writes all else
            mask = torch.empty(1, 1, dtype=torch.bool, device=META)
            answer: Tensor = self.fusion.rehearse(
                self.language, images_rmd, width, mask=mask, written=width
            )
            return answer
        mask = torch.empty(1, 1, width, width, dtype=torch.bool, device=META)
        taken = 1 if self.fusion.beside_row else width
        states: Tensor = self.fusion.rehearse(self.language, images_rmd, width - taken, mask=mask)
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
