"""FLOPs of a training step, from those of one square, one token, one pair of tokens and one target.

They are counted once, on shapes alone, by torch's own counter: the parts run forward and backward
on the meta device, where only what the stage trains has a backward pass. Training's MFU and the
planner's hours follow from them.

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
"""Tokens of the rows that are counted: so many, and twice as many."""


class StepCost(NamedTuple):
    """FLOPs by what they are for; a multiplication with its addition is two.

    What activation checkpointing computes again is not counted.
    """

    vision: float
    """Of the encoder, for each square: an image, or a tile of one."""
    connector: float
    """For each square too."""
    token: float
    """Of the decoder, for each token of a row."""
    pair: float
    """Of its attention, for each pair of tokens of a row, masked or not."""
    target: float
    """Of the head, for each target token; of the decoder too, where it writes those alone."""
    beside: float = 0.0
    """Of the fusion's cross-attention, for each image token that it reads beside the row."""
    beside_pair: float = 0.0
    """Of the same, for each pair of a token of the row and such a token of one image."""
    beside_tokens: int = 0
    """Such tokens of one square."""
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
        """Return the FLOPs of micro-batches that have `length` tokens without their padding.

        Padding is computed too, but it is no work of the model, so it is not counted.
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
    """What a model costs as it stands, by what a stage trains of it."""

    forward: StepCost
    training: StepCost
    """Forward and backward."""


def count_cost(model: VisionLanguageModel) -> StepCost | None:
    """Return what training costs; `apply_stage` must have set what trains.

    None where shapes alone do not tell: for models that decide by numbers what to compute, and for
    quantized ones.
    """
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
        counted = list(_count(model))
    beside = model.connector.tokens(model.vision.patches) if model.fusion.beside_row else 0
    forward, training = (
        StepCost(
            beside_tokens=beside,
            by_segments=by_segments,
            **dict(zip(COUNTED, one, strict=True)),
        )
        for one in zip(*counted, strict=True)
    )
    return Cost(forward, training)


COUNTED = (
    *("vision", "connector", "token", "pair", "target", "beside", "beside_pair"),
    *("target_pair", "target_read"),
)
"""Fields of `StepCost`, in the order of `_count`."""
NOTHING = (0.0, 0.0)
"""Forward and in training, of what a model does not have."""


def _count(model: VisionLanguageModel) -> Iterator[tuple[float, ...]]:
    """Yield each of `COUNTED`, forward alone and with the backward pass."""
    tower, connector, language = model.vision, model.connector, model.language
    table = language.get_input_embeddings().weight
    size = model.prepare.size
    # The inputs of connector, decoder and head need a gradient where anything before them trains.
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
        for beside in ((TOKENS, 2 * TOKENS) if model.fusion.beside_row else (0,))
        for width in (TOKENS, 2 * TOKENS)
    ]
    if not model.fusion.beside_row:
        rows *= 2  # there is nothing beside the row to double
    solved = zip(*(_solved(*four) for four in zip(*rows, strict=True)), strict=True)
    tokens, pairs, beside, beside_pairs = solved
    yield from (tokens, pairs, target, beside, beside_pairs, NOTHING, NOTHING)


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
    yield from (tokens, pairs, targets, NOTHING, NOTHING, target_pairs, target_reads)


def _solved(one: float, wide: float, more: float, both: float) -> tuple[float, ...]:
    """Return the FLOPs of a token, of a pair of tokens, of a token beside the row, and of a pair
    with one, from those of four rows: `one`; one twice as `wide`; one with twice as many tokens
    beside it (`more`); and one with `both`.
    """
    across = both - wide - more + one  # of the first row's pairs with what is beside it
    beside = more - one - across
    alone, twice = one - beside - across, wide - beside - 2 * across
    pairs = (twice - 2 * alone) / 2  # twice the tokens have four times the pairs
    return (alone - pairs) / TOKENS, pairs / TOKENS**2, beside / TOKENS, across / TOKENS**2


def _row_flops(
    model: VisionLanguageModel, width: int, beside: int, *, grad: bool
) -> tuple[float, float]:
    """Count a row of `width` positions, with `beside` image tokens beside it, or, where that is 0,
    of image tokens alone.
    """
    table = model.language.get_input_embeddings().weight
    d_image = model.fusion.token_width(model.vision.width, table.shape[1])
    return _flops(_Row(model, width), _blank(1, beside or width, d_image, like=table, grad=grad))


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
    """Count a module's forward pass, alone and with the backward pass, its weights replaced by meta
    tensors.
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
