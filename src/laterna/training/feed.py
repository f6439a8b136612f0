"""Which records go into which optimiser step, and as which batches.

Shapes: b pictures · c channels · h, w pixels · n features a picture · d width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import msgspec

from laterna.data.batches import collate
from laterna.data.packing import epoch_order, plan_batches, plan_packs
from laterna.data.picture_files import PictureFiles
from laterna.data.pictures import PicturePreparer, load_picture
from laterna.model.features import FeatureStore
from laterna.recipe import StageSettings
from laterna.records import Batch, Sample
from laterna.training.prefetch import in_order

Fill = Callable[[Batch], Batch]
"""Gives a batch its pictures, as pixels or as features."""


def count_steps(records: int, stage: StageSettings) -> int:
    """Return how many optimiser steps a stage takes over this many records; the last may be
    smaller than the others.
    """
    steps = math.ceil(_drawn(records, stage) / stage.batch_records)
    return min(steps, stage.max_steps) if stage.max_steps else steps


def step_records(records: int, stage: StageSettings, *, seed: int, step: int) -> list[int]:
    """Return the numbers of the records that a step, counted from 0, learns from.

    They follow from the seed and the step alone, so a run can go on at any step. Records flow
    over the end of an epoch, so every step but the last holds `batch_records`.
    """
    first = step * stage.batch_records
    places = range(first, min(first + stage.batch_records, _drawn(records, stage)))
    return [_order(records, seed, place // records)[place % records] for place in places]


def feed(
    samples: Sequence[Sample],
    stage: StageSettings,
    *,
    seed: int,
    fill: Fill,
    first_step: int = 0,
    workers: int = 0,
) -> Iterator[list[Batch]]:
    """Yield every optimiser step's micro-batches from `first_step` (counted from 0) on.

    The seed alone decides their order. `workers` threads make the next steps' batches meanwhile.
    """

    def make(step: int) -> list[Batch]:
        numbers = step_records(len(samples), stage, seed=seed, step=step)
        packs = plan_packs([samples[number] for number in numbers], row_tokens=stage.row_tokens)
        return [
            fill(collate(rows)) for rows in plan_batches(packs, micro_tokens=stage.micro_tokens)
        ]

    return in_order(make, range(first_step, count_steps(len(samples), stage)), workers)


def fill_pixels(preparer: PicturePreparer, pictures: PictureFiles) -> Fill:
    """Read and prepare a batch's pictures when it is needed."""

    def fill(batch: Batch) -> Batch:
        if not batch.pictures:
            return batch
        opened = [load_picture(pictures.find(name), name) for name in batch.pictures]
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


@lru_cache(maxsize=2)
def _order(records: int, seed: int, epoch: int) -> list[int]:
    return epoch_order(records, seed, epoch)
