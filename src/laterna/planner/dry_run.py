"""One training step on the meta device: its memory at the fullest moment, its FLOPs by part, and
what larger images cost: tokens and cache grow as their area, attention as its square.

The parts, torch's own backward pass and the loss are those of a real run; only where a run looks at
numbers (which token is an image, which is a target), the numbers are given instead.

Shapes: b images · c channels · h, w pixels · m tokens an image · d width · r rows ·
t tokens of a row · s target tokens.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from laterna.errors import LaternaError, one_line
from laterna.model.attention.varlen import LIST
from laterna.model.cost import META, StepCost
from laterna.model.vlm import VisionLanguageModel
from laterna.planner.images import ShownImage, filled_grids
from laterna.planner.memory import LiveBytes, meta_attention
from laterna.recipe import PartName
from laterna.records import Record
from laterna.training.objective import summed_loss


class Load(Record):
    """What one micro-batch holds."""

    rows: int
    images: int
    """In each row; each takes as many tokens as the connector makes."""
    text: int
    """Tokens in each row that are no image's, padding included."""
    targets: int
    """Tokens in each row that are learned."""
    records: int = 1
    """About each image, standing in the row behind it."""
    segments: bool = False
    """Whether each record attends alone (`attention.varlen`), without mask; else records that share
    an image take a mask of numbers, one for all layers."""

    encodes: bool = False
    """Whether each record is read by an encoder alone, and a decoder writes its targets."""

    @property
    def answers(self) -> int:
        """Records in all; each has one answer."""
        return self.rows * self.images * self.records

    @property
    def written(self) -> float:
        """Target tokens of a record."""
        return self.targets / (self.images * self.records)

    def read(self, image_tokens: int) -> float:
        """Return the tokens of a record that an encoder reads: all but its targets."""
        return image_tokens + self.text / (self.images * self.records) - self.written

    def keys(self, image_tokens: int) -> int:
        """Return how many keys the segments of a row have together: what is shared comes again
        with every record behind it.
        """
        shared = self.images * self.records * image_tokens if self.records > 1 else 0
        return self.text + self.images * image_tokens + shared

    def width(self, image_tokens: int) -> int:
        """Return the positions of a row."""
        return self.text + self.images * image_tokens

    def pairs(self, image_tokens: int) -> float:
        """Return the pairs of tokens and keys that attention computes, over all rows."""
        if self.encodes:
            return self.answers * self.read(image_tokens) ** 2
        if not self.segments:
            return self.rows * self.width(image_tokens) ** 2
        own = self.text / (self.images * self.records)
        both = image_tokens + own
        family = image_tokens**2 + self.records * own * both
        return self.rows * self.images * (family if self.records > 1 else both**2)


class Bytes(Record):
    """Memory of a step at its fullest moment."""

    weights: int
    """All parts, frozen ones included, with their buffers."""
    gradients: int
    kept: dict[PartName, int]
    """What each part's forward pass keeps for the backward pass; the loss counts as language."""
    peak: int
    """Weights, gradients, activations and operators' temporary tensors; no optimizer."""

    @property
    def activations(self) -> int:
        """All but weights and gradients."""
        return self.peak - self.weights - self.gradients


class DryRun(nn.Module):
    """The three parts one after another, as `Objective` runs them in training.

    The stage must have been applied to the skeleton. Without `sees`, the vision tower is left
    out, as when its features come from a cache.
    """

    def __init__(
        self, skeleton: VisionLanguageModel, image: ShownImage | None = None, *, sees: bool = True
    ) -> None:
        """`image`: what each takes; None: as much as one on the largest grid."""
        super().__init__()
        self.vision = skeleton.vision
        self.connector = skeleton.connector
        self.language = skeleton.language
        self.fusion = skeleton.fusion
        self.head = skeleton.language.get_output_embeddings()
        self.sees = sees
        self.side = skeleton.prepare.size
        self.image = image or filled_grids(skeleton)[-1]
        meta_attention(skeleton.language)
        if hasattr(skeleton.vision.model, "set_attn_implementation"):
            meta_attention(skeleton.vision.model)

    @contextmanager
    def showing(self, image: ShownImage) -> Iterator[None]:
        """Let each image temporarily take what this one does."""
        before, self.image = self.image, image
        yield
        self.image = before

    @property
    def image_tokens(self) -> int:
        """Positions of each image in a row."""
        return self.image.tokens

    @property
    def dtype(self) -> torch.dtype:
        """The numbers' format of weights and activations."""
        dtype: torch.dtype = self.head.weight.dtype
        return dtype

    def look(self, images: int) -> Tensor:
        """Return the features (b, n, d) of that many images' tiles."""
        tiles = round(images * self.image.tiles)
        if self.sees:
            features: Tensor = self.vision(torch.empty(tiles, 3, self.side, self.side, device=META))
            return features
        shape = (tiles, self.vision.patches, self.vision.width)
        return torch.empty(shape, dtype=self.dtype, device=META)

    def read(self, tokens_bmd: Tensor, load: Load) -> Tensor:
        """Return the decoder's states (r, t, d) over the rows of a micro-batch."""
        given = load.images * (self.image.beside or self.image_tokens)
        joined_nd = self._join(tokens_bmd, load.rows * given)
        if load.encodes:
            return self._answer(joined_nd, load)
        images_rmd = joined_nd.reshape(load.rows, given, -1)
        mask = self._mask(load.rows, load.images * self.image_tokens + load.text, load)
        states_rtd: Tensor = self.fusion.rehearse(
            self.language, images_rmd, load.text, images=load.images, mask=mask
        )
        return states_rtd

    def _answer(self, joined_nd: Tensor, load: Load) -> Tensor:
        """Return an encoder-decoder's states (r, t, d) over the answers of a micro-batch."""
        tokens, written = self.image_tokens, math.ceil(load.written)
        images_rmd = joined_nd.reshape(load.rows * load.images, tokens, -1)
        images_rmd = images_rmd.repeat_interleave(load.records, dim=0)
        text = math.ceil(load.read(tokens)) - tokens + written
        states_rtd: Tensor = self.fusion.rehearse(
            self.language, images_rmd, text, mask=self._mask(1, 1), written=written
        )
        return states_rtd

    def _join(self, tokens_bmd: Tensor, count: int) -> Tensor:
        """Join tiles into `count` tokens (n, d): with newlines, without borders (`join_tiles`)."""
        joined_nd = tokens_bmd.flatten(0, 1)
        ends = count - len(joined_nd)
        if ends <= 0:
            return joined_nd[:count]
        newline_d = self.connector.image_newline
        assert newline_d is not None, "the skeleton was built with one"
        return torch.cat([joined_nd, newline_d.expand(ends, -1)])

    def _mask(self, rows: int, width: int, load: Load | None = None) -> Tensor:
        """Return a mask that keeps samples apart: whether each token is seen, or, where images are
        shared, what is added to its score.
        """
        if load is not None and load.segments:
            return torch.empty(1, 1, load.keys(self.image_tokens), 2, dtype=LIST, device=META)
        kind = self.dtype if load is not None and load.records > 1 else torch.bool
        return torch.empty(rows, 1, width, width, dtype=kind, device=META)

    def learn(self, states_rtd: Tensor, load: Load) -> Tensor:
        """Return the loss."""
        chosen = torch.empty(load.rows * load.targets, dtype=torch.long, device=META)
        labels_s = torch.empty_like(chosen)
        if load.encodes:  # whose own forward pass makes all logits at once
            logits_sv = self.head(states_rtd).flatten(0, 1)[chosen]
            return functional.cross_entropy(logits_sv.float(), labels_s, reduction="sum")
        states_sd = states_rtd.flatten(0, 1)[chosen]
        return summed_loss(states_sd, labels_s, self.head, int(self.head.weight.shape[0]))

    def beside_bytes(self, tokens: int) -> int:
        """Return what is kept beside the cache of so many image tokens."""
        return tokens * self.fusion.beside_numbers() * self.dtype.itemsize

    def cache(self, tokens: int) -> Any:
        """Return the keys and values that a row of so many tokens leaves."""
        width = self.language.get_input_embeddings().embedding_dim
        beside, mask = self.image.beside, self._mask(1, tokens)
        d_image = self.fusion.token_width(self.vision.width, width)
        row_rtd = torch.empty(1, beside or tokens, d_image, dtype=self.dtype, device=META)
        text = tokens - 1 if beside else 0
        return self.fusion.rehearse(self.language, row_rtd, text, mask=mask, cache=True)


def count_flops(cost: StepCost, load: Load, image: ShownImage) -> dict[PartName, float]:
    """Return the FLOPs by part of a micro-batch whose images are like that one."""
    images = load.rows * load.images
    if load.encodes:
        answers, read, written = load.answers, load.read(image.tokens), load.written
        return cost.by_part(
            seen=images * image.tiles,
            connected=images * image.tiles,
            tokens=answers * read,
            pairs=answers * read**2,
            targets=answers * written,
            target_pairs=answers * written**2,
            target_reads=answers * written * read,
        )
    return cost.by_part(
        seen=images * image.tiles,
        connected=images * image.tiles,
        tokens=load.rows * load.text + images * image.tokens,
        pairs=load.pairs(image.tokens),
        targets=load.rows * load.targets,
        beside_pairs=load.rows * load.width(image.tokens) * image.beside,
    )


def count_bytes(dry_run: DryRun, load: Load, *, again: bool, checkpointed: bool) -> Bytes:
    """Return the memory of a micro-batch; `again`: of a second one, when the first's gradients are
    there.

    `checkpointed`: of each layer only its input is kept, and the rest computed again (language, and
    vision where it trains).
    """
    with shapes_alone(), _checkpointing(dry_run, checkpointed), LiveBytes() as live:
        live.add((*dry_run.parameters(), *dry_run.buffers()))
        weights = live.now
        marks: dict[PartName, int] = {}
        for _ in range(2 if again else 1):
            start = live.now
            features = dry_run.look(load.rows * load.images)
            marks["vision"] = live.now - start
            tokens_bmd = dry_run.connector(features)
            marks["connector"] = live.now - start - marks["vision"]
            loss = dry_run.learn(dry_run.read(tokens_bmd, load), load)
            del tokens_bmd, features
            marks["language"] = live.now - start - marks["vision"] - marks["connector"]
            loss.backward()  # type: ignore[no-untyped-call]
            del loss
        gradients = live.now - weights
        dry_run.zero_grad()
    return Bytes(weights=weights, gradients=gradients, kept=marks, peak=live.peak)


def count_cache(dry_run: DryRun, tokens: int) -> int:
    """Return the bytes of the KV cache that a row of so many tokens leaves."""
    with shapes_alone(), torch.no_grad():
        cache = dry_run.cache(tokens)
    kept = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
    return sum(tensor.nbytes for tensor in kept)


@contextmanager
def _checkpointing(dry_run: DryRun, wanted: bool) -> Iterator[None]:
    """Checkpoint temporarily the layers of the parts that gradients pass through."""
    models = [dry_run.language]
    if any(weight.requires_grad for weight in dry_run.vision.parameters()):
        models.append(dry_run.vision.model)
    models = [model for model in models if wanted and model.supports_gradient_checkpointing]
    trained = [model.training for model in models]
    with warnings.catch_warnings():
        # Its name is about to change; the ranges that we support have this one in common.
        warnings.simplefilter("ignore", FutureWarning)
        for model in models:
            model.train()  # layers checkpoint in training mode alone
            model.gradient_checkpointing_enable(
                {"use_reentrant": False, "context_fn": dry_run.fusion.again}
            )
        yield
        for model, mode in zip(models, trained, strict=True):
            model.gradient_checkpointing_disable()
            model.train(mode)


@contextmanager
def shapes_alone() -> Iterator[None]:
    """Raise LaternaError where torch needs numbers, and shapes alone do not do."""
    try:
        yield
    except (NotImplementedError, RuntimeError) as error:
        raise LaternaError(
            "this recipe cannot be planned: one of its models decides by numbers what to compute, "
            f"which a dry run without numbers cannot follow: {one_line(error, 200)}"
        ) from error


SIDES = (224, 336, 448, 672, 1024)
"""Sides in pixels: LLaVA's, LLaVA-1.5's, twice each, and a large one."""


class Resolution(Record):
    """Square images of one size, cut into patches of the encoder's size."""

    side: int
    """Pixels."""
    patches: int
    tokens: int
    """In the language model's context."""
    cache: int
    """Bytes that they take in the KV cache, and beside it."""
    attention_flops: int
    """Of the language model reading them, what grows quadratically."""


def resolutions(dry_run: DryRun, forward: StepCost) -> tuple[Resolution, ...]:
    """Return a row for each of the usual sizes and the encoder's own, without those that the
    connector cannot take; `forward` is what a forward pass costs.

    Many encoders take no other size than their own; that is not looked at here.
    """
    tower = dry_run.vision
    grid = round((tower.patches - int(tower.class_token)) ** 0.5)
    pixels = dry_run.side / grid  # a side of 1024 with patches of 14 is 73 whole patches
    found = []
    for side in sorted({*SIDES, dry_run.side}):
        patches = int(side / pixels) ** 2 + int(tower.class_token)
        try:
            tokens = dry_run.connector.tokens(patches)
        except LaternaError:
            continue
        if not tokens:
            continue
        beside = dry_run.beside_bytes(tokens)
        tokens = 1 if dry_run.image.beside else tokens
        found.append(
            Resolution(
                side=side,
                patches=patches,
                tokens=tokens,
                cache=count_cache(dry_run, tokens) + beside,
                attention_flops=round(forward.pair * tokens**2),
            )
        )
    return tuple(found)
