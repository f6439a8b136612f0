"""Which records go into which optimiser step, and as which batches.

Shapes: b pictures · c channels · h, w pixels · n features a picture · d width.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import msgspec
from PIL import Image

from laterna.data.batches import collate
from laterna.data.packing import epoch_order, plan_batches, plan_packs
from laterna.data.picture_files import PictureFiles
from laterna.data.pictures import MissingPictureError, PicturePreparer, load_picture
from laterna.errors import LaternaError
from laterna.model.features import FeatureStore
from laterna.recipe import StageSettings
from laterna.records import Batch, Pack, Sample
from laterna.training.distributed import ALONE, Ranks
from laterna.training.objective import empty_batch
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


MISSING, UNREADABLE = "picture missing", "picture cannot be read"
FAULTS = (MISSING, UNREADABLE)
"""Why a picture leaves its records out."""


class Step(NamedTuple):
    """One rank's share of an optimiser step."""

    number: int
    """Counted from 0."""
    batches: tuple[Batch, ...]
    """Micro-batches; none where the rank has no record."""
    length: int
    """Tokens, padding left out."""
    faulty: dict[str, int]
    """Records left out for a picture that cannot be read, by reason."""

    @property
    def ids(self) -> list[str]:
        """The ids of the records."""
        return [name for batch in self.batches for name in batch.ids]

    @property
    def tokens(self) -> int:
        """Tokens, padding included."""
        return sum(batch.input_ids_rt.numel() for batch in self.batches)

    @property
    def pictures(self) -> int:
        """Pictures."""
        return sum(len(batch.pictures) for batch in self.batches)


class FaultyPictureError(Exception):
    """A picture of a batch cannot be read; the records that show it are to be left out."""

    def __init__(self, picture: str, reason: str) -> None:
        super().__init__(f"{picture}: {reason}")
        self.picture = picture
        self.reason = reason


def feed(
    samples: Sequence[Sample],
    stage: StageSettings,
    *,
    seed: int,
    fill: Fill,
    first_step: int = 0,
    workers: int = 0,
    ranks: Ranks = ALONE,
    even: bool = False,
) -> Iterator[Step]:
    """Yield this rank's share of every optimiser step from `first_step` (counted from 0) on.

    The seed alone decides the order. The rows of a step are dealt to the ranks, the longest
    first. `workers` threads make the next steps' batches meanwhile. `even` gives every rank as
    many micro-batches as the one with most, by empty ones: FSDP's ranks walk in step.
    """

    def make(step: int) -> Step:
        numbers = step_records(len(samples), stage, seed=seed, step=step)
        packs = plan_packs([samples[number] for number in numbers], row_tokens=stage.row_tokens)
        packs = sorted(packs, key=lambda pack: -pack.length)
        dealt = [
            plan_batches(packs[rank :: ranks.count], micro_tokens=stage.micro_tokens)
            for rank in range(ranks.count)
        ]
        made = _make_step(step, dealt[ranks.rank], fill)
        if not even:
            return made
        missing = max(len(plan) for plan in dealt) - len(made.batches)
        return made._replace(batches=made.batches + (empty_batch(),) * missing)

    return in_order(make, range(first_step, count_steps(len(samples), stage)), workers)


def _make_step(number: int, plan: Sequence[Sequence[Pack]], fill: Fill) -> Step:
    batches: list[Batch] = []
    faulty: Counter[str] = Counter()
    length = 0
    for packs in plan:
        rows = list(packs)
        while rows:
            try:
                batches.append(fill(collate(rows)))
            except FaultyPictureError as fault:
                kept = [_without(pack, fault.picture) for pack in rows]
                lost = sum(len(pack.samples) for pack in rows)
                rows = [pack for pack in kept if pack.samples]
                faulty[fault.reason] += lost - sum(len(pack.samples) for pack in rows)
            else:
                length += sum(pack.length for pack in rows)
                break
    return Step(number=number, batches=tuple(batches), length=length, faulty=dict(faulty))


def _without(pack: Pack, picture: str) -> Pack:
    return Pack(samples=tuple(one for one in pack.samples if picture not in one.pictures))


def fill_pixels(preparer: PicturePreparer, files: PictureFiles) -> Fill:
    """Read and prepare a batch's pictures when it is needed.

    The filling raises FaultyPictureError for a picture that cannot be read.
    """

    def opened(name: str) -> Image.Image:
        try:
            return load_picture(files.find(name), name)
        except MissingPictureError as error:
            raise FaultyPictureError(name, MISSING) from error
        except LaternaError as error:
            raise FaultyPictureError(name, UNREADABLE) from error

    def fill(batch: Batch) -> Batch:
        if not batch.pictures:
            return batch
        pictures = [opened(name) for name in batch.pictures]
        return msgspec.structs.replace(
            batch,
            pixels_bchw=preparer(pictures),
            tilings=preparer.tilings([picture.size for picture in pictures]),
        )

    return fill


def fill_features(store: FeatureStore) -> Fill:
    """Take a batch's features from the cache."""

    def fill(batch: Batch) -> Batch:
        if not batch.pictures:
            return batch
        return msgspec.structs.replace(
            batch,
            features_bnd=store.get(batch.pictures),
            tilings=store.tilings(batch.pictures),
        )

    return fill


def _drawn(records: int, stage: StageSettings) -> int:
    return max(1, round(records * stage.epochs))


@lru_cache(maxsize=2)
def _order(records: int, seed: int, epoch: int) -> list[int]:
    return epoch_order(records, seed, epoch)
