"""The dataloader: which records go into which optimizer step, and its batches, made in advance.

Shapes: b images · c channels · h, w pixels · n features an image · d width.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple, TypeVar

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from laterna.data.batches import collate
from laterna.data.images.files import ImageFiles
from laterna.data.images.fitting import ImagePreparer
from laterna.data.images.opening import MissingImageError, load_image
from laterna.data.packing import (
    epoch_families,
    epoch_order,
    plan_batches,
    plan_packs,
    without_image,
)
from laterna.data.preparation.samples import MappedSamples
from laterna.errors import LaternaError
from laterna.model.vision.feature_cache import FeatureStore
from laterna.recipe import StageSettings
from laterna.records import Batch, Pack, Sample
from laterna.training.objective import empty_batch
from laterna.training.parallel import ALONE, Ranks

Fill = Callable[[Batch], Batch]
"""Gives a batch its images, as pixels or as features."""


def count_steps(records: int, stage: StageSettings) -> int:
    """Return the number of a stage's optimizer steps over its records; the last may be smaller."""
    steps = math.ceil(_drawn(records, stage) / stage.global_batch_size)
    return min(steps, stage.max_steps) if stage.max_steps else steps


class Order:
    """The order of the records: which of them each step trains on.

    It follows from the seed alone, so a run can go on at any step. Where images are shared,
    records about one image are consecutive.
    """

    def __init__(self, samples: Sequence[Sample], stage: StageSettings, seed: int) -> None:
        self.records = len(samples)
        self.stage = stage
        self.seed = seed
        self._images = _first_images(samples) if stage.shared_prefix else None
        self._epoch = lru_cache(maxsize=2)(self._epoch_order)

    def of_step(self, step: int) -> list[int]:
        """Return the numbers of the records of a step, counted from 0.

        Records flow over the end of an epoch, so every step but the last holds `global_batch_size`.
        """
        first = step * self.stage.global_batch_size
        end = min(first + self.stage.global_batch_size, _drawn(self.records, self.stage))
        places = (divmod(place, self.records) for place in range(first, end))
        return [int(self._epoch(epoch)[place]) for epoch, place in places]

    def _epoch_order(self, epoch: int) -> NDArray[np.int64]:
        if self._images is None:
            return epoch_order(self.records, self.seed, epoch)
        return epoch_families(self._images, self.seed, epoch)


def step_packs(chosen: Sequence[Sample], stage: StageSettings) -> list[Pack]:
    """Put the samples of one step into rows, as the stage says."""
    return plan_packs(
        chosen,
        pack_length=stage.pack_length,
        shared_prefix=stage.shared_prefix,
        micro_batch_tokens=stage.micro_batch_tokens,
    )


def _first_images(samples: Sequence[Sample]) -> NDArray[np.int64]:
    if isinstance(samples, MappedSamples):
        return samples.first_images()
    numbers: dict[str, int] = {}
    first = [
        numbers.setdefault(sample.images[0], len(numbers)) if sample.images else -1
        for sample in samples
    ]
    return np.array(first, np.int64)


MISSING, UNREADABLE = "image missing", "image cannot be read"
FAULTS = (MISSING, UNREADABLE)
"""Reasons to leave out an image's records."""


class Lost(NamedTuple):
    """A record left out of a step for an image."""

    record: str
    image: str
    reason: str

    def __str__(self) -> str:
        return f"record {self.record} ({self.image}: {self.reason})"


class Step(NamedTuple):
    """One rank's share of an optimizer step."""

    number: int
    """Counted from 0."""
    batches: tuple[Batch, ...]
    """Micro-batches; empty where the rank has no record."""
    length: int
    """Tokens, padding left out."""
    faulty: dict[str, int]
    """Records left out for an image that cannot be read, by reason."""
    lost: tuple[Lost, ...] = ()
    """These records."""

    @property
    def ids(self) -> list[str]:
        """The ids of the records."""
        return [name for batch in self.batches for name in batch.ids]

    @property
    def tokens(self) -> int:
        """Tokens, padding included."""
        return sum(batch.input_ids_rt.numel() for batch in self.batches)

    @property
    def images(self) -> int:
        """Images of the batches."""
        return sum(len(batch.images) for batch in self.batches)


class FaultyImageError(Exception):
    """An image of a batch cannot be read; the records that show it are to be left out."""

    def __init__(self, image: str, reason: str) -> None:
        super().__init__(f"{image}: {reason}")
        self.image = image
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
    """Yield this rank's share of every optimizer step from `first_step` (counted from 0) on.

    The seed alone decides the order. The rows of a step are dealt to the ranks, the longest
    first. `workers` threads make the next steps' batches in advance. `even` adds empty
    micro-batches so that every rank has equally many, as FSDP needs.
    """
    order = Order(samples, stage, seed)

    def make(step: int) -> Step:
        packs = step_packs([samples[number] for number in order.of_step(step)], stage)
        packs = sorted(packs, key=lambda pack: -pack.length)
        dealt = [
            plan_batches(packs[rank :: ranks.count], micro_batch_tokens=stage.micro_batch_tokens)
            for rank in range(ranks.count)
        ]
        made = _make_step(step, dealt[ranks.rank], fill, ranks.device)
        if not even:
            return made
        missing = max(len(plan) for plan in dealt) - len(made.batches)
        return made._replace(batches=made.batches + (empty_batch(),) * missing)

    return in_order(make, range(first_step, count_steps(len(samples), stage)), workers)


def _make_step(
    number: int, plan: Sequence[Sequence[Pack]], fill: Fill, device: torch.device
) -> Step:
    batches: list[Batch] = []
    lost: list[Lost] = []
    length = 0
    for packs in plan:
        rows = list(packs)
        while rows:
            try:
                batches.append(_pinned(fill(collate(rows)), device))
            except FaultyImageError as fault:
                lost += (
                    Lost(sample.id, fault.image, fault.reason)
                    for pack in rows
                    for sample in pack.samples
                    if fault.image in sample.images
                )
                kept = [without_image(pack, fault.image) for pack in rows]
                rows = [pack for pack in kept if pack.samples]
            else:
                length += sum(pack.length for pack in rows)
                break
    faulty = dict(Counter(one.reason for one in lost))
    return Step(
        number=number, batches=tuple(batches), length=length, faulty=faulty, lost=tuple(lost)
    )


def _pinned(batch: Batch, device: torch.device) -> Batch:
    """Pin the memory of a batch for a GPU, so that it can be copied while the GPU works."""
    if device.type != "cuda":
        return batch
    tensors = ((name, getattr(batch, name)) for name in batch.__struct_fields__)
    pinned = {name: one.pin_memory() for name, one in tensors if isinstance(one, Tensor)}
    return msgspec.structs.replace(batch, **pinned)


def fill_pixels(preparer: ImagePreparer, files: ImageFiles) -> Fill:
    """Return what reads and prepares a batch's images.

    It raises FaultyImageError for an image that cannot be read.
    """

    def opened(name: str) -> Image.Image:
        try:
            return load_image(files.find(name), name)
        except MissingImageError as error:
            raise FaultyImageError(name, MISSING) from error
        except LaternaError as error:
            raise FaultyImageError(name, UNREADABLE) from error

    def fill(batch: Batch) -> Batch:
        if not batch.images:
            return batch
        images = [opened(name) for name in batch.images]
        return msgspec.structs.replace(
            batch,
            pixels_bchw=preparer(images),
            tilings=preparer.tilings([image.size for image in images]),
        )

    return fill


def fill_features(store: FeatureStore) -> Fill:
    """Return what takes a batch's features from the cache."""

    def fill(batch: Batch) -> Batch:
        if not batch.images:
            return batch
        return msgspec.structs.replace(
            batch,
            features_bnd=store.get(batch.images),
            tilings=store.tilings(batch.images),
        )

    return fill


def _drawn(records: int, stage: StageSettings) -> int:
    return max(1, round(records * stage.epochs))


In = TypeVar("In")
Out = TypeVar("Out")


def in_order(make: Callable[[In], Out], wanted: Iterable[In], workers: int) -> Iterator[Out]:
    """Yield `make(one)` for each of `wanted`, in its order, as `map` does.

    `workers` threads make the next `workers` results while the caller uses the one before; with 0
    each is made when it is needed. Threads are enough: Pillow decodes and resizes, and torch
    computes, without Python's lock. What `make` raises is raised in its turn, so neither order nor
    outcome depends on the number of workers.
    """
    if workers == 0:
        yield from map(make, wanted)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="laterna-batches")
    waiting: deque[Future[Out]] = deque()
    try:
        for one in wanted:
            waiting.append(pool.submit(make, one))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
