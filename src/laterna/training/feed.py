"""Which records go into which optimiser step, and as which batches.

Shapes: b pictures · c channels · h, w pixels · n features a picture · d width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, count, islice
from pathlib import Path

import msgspec

from laterna.data.batches import collate
from laterna.data.packing import epoch_order, plan_batches, plan_packs
from laterna.data.pictures import PicturePreparer, load_picture
from laterna.model.features import FeatureStore
from laterna.recipe import StageSettings
from laterna.records import Batch, Sample

Fill = Callable[[Batch], Batch]
"""Gives a batch its pictures, as pixels or as features."""


def count_steps(records: int, stage: StageSettings) -> int:
    """Return how many optimiser steps a stage takes over this many records; the last may be
    smaller than the others.
    """
    steps = math.ceil(_drawn(records, stage) / stage.batch_records)
    return min(steps, stage.max_steps) if stage.max_steps else steps


def feed(
    samples: Sequence[Sample], stage: StageSettings, *, seed: int, fill: Fill
) -> Iterator[list[Batch]]:
    """Yield every optimiser step's micro-batches, in an order that the seed alone decides.

    Records flow over the end of an epoch, so every step but the last holds `batch_records`.
    """
    order = chain.from_iterable(epoch_order(len(samples), seed, epoch) for epoch in count())
    left = _drawn(len(samples), stage)
    for _ in range(count_steps(len(samples), stage)):
        size = min(stage.batch_records, left)
        left -= size
        chosen = [samples[index] for index in islice(order, size)]
        packs = plan_packs(chosen, row_tokens=stage.row_tokens)
        micro = plan_batches(packs, micro_tokens=stage.micro_tokens)
        yield [fill(collate(rows)) for rows in micro]


def fill_pixels(preparer: PicturePreparer, folder: Path) -> Fill:
    """Read and prepare a batch's pictures when it is needed."""

    def fill(batch: Batch) -> Batch:
        if not batch.pictures:
            return batch
        opened = [load_picture(folder / name) for name in batch.pictures]
        return msgspec.structs.replace(batch, pixels_bchw=preparer(opened))

    return fill


def fill_features(store: FeatureStore) -> Fill:
    """Take a batch's features from the cache."""

    def fill(batch: Batch) -> Batch:
        if not batch.pictures:
            return batch
        return msgspec.structs.replace(batch, features_bnd=store.get(batch.pictures))

    return fill


def _drawn(records: int, stage: StageSettings) -> int:
    return max(1, round(records * stage.epochs))
