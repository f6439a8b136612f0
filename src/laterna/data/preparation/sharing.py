"""Which records of a set can stand behind a shared image, and why the others cannot.

The rule is `packing.share_key`'s; here it is asked of all records of a set at once, by arrays over
their columns, without making a sample.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from laterna.data.preparation.samples import Columns, MappedSamples
from laterna.records import IMAGE_TOKEN_INDEX, Record

NO_IMAGE = "no image"
LEARNED_FIRST = "learned words before the image"
OTHER_WORDS = "other words before the image than in the records about it"
ONLY_ONE = "the only record about its image"
LATER_IMAGES = "several images: those behind the first"
"""Of a record that shares its first image; the others are not shared."""


class SharedImages(Record, frozen=True):
    """How many records of a set share an image, and why the others do not."""

    records: int
    """Records that can stand behind an image with another."""
    groups: int
    """Groups of such records: one image each, and the same words before it."""
    reasons: dict[str, int]
    """Records, or their images, that are not shared by reason, the most frequent first."""
    examples: dict[str, str]
    """The first record of each reason."""


class _Heads(NamedTuple):
    """What stands in each row up to its first image, that one included."""

    lengths: NDArray[np.int64]
    """Ids; 0 where there is no image."""
    digests: NDArray[np.uint64]
    """Equal for equal ids, and for others by chance of less than 2⁻⁴⁰."""
    learned: NDArray[np.bool_]
    """Whether any of them is learned, but for the first, which nothing predicts."""


def shared_images(samples: MappedSamples) -> SharedImages:
    """Count the records that can share an image, over the whole set: a step holds a part of it."""
    heads = _joined([_heads(columns) for columns in samples.batches])
    lengths, digests, learned = (column[samples.rows] for column in heads)
    _, image = np.unique(samples.first_images(), return_inverse=True)
    can = (lengths > 0) & ~learned
    pairs = np.stack([image.astype(np.uint64), digests], axis=1)[can]
    _, group, size = np.unique(pairs, axis=0, return_inverse=True, return_counts=True)
    siblings = np.zeros(len(can), np.int64)
    siblings[can] = size[group.reshape(-1)]
    about = np.bincount(image, minlength=1)[image]
    shares = siblings > 1
    several = shares & (_images(samples) > 1)
    masks = {
        NO_IMAGE: lengths == 0,
        LEARNED_FIRST: (lengths > 0) & learned,
        OTHER_WORDS: can & ~shares & (about > 1),
        ONLY_ONE: can & ~shares & (about == 1),
        LATER_IMAGES: several,
    }
    counts = Counter({reason: int(mask.sum()) for reason, mask in masks.items() if mask.any()})
    return SharedImages(
        records=int(shares.sum()),
        groups=int((size > 1).sum()),
        reasons=dict(counts.most_common()),
        examples={
            reason: samples.id_of(int(np.flatnonzero(masks[reason])[0])) for reason in counts
        },
    )


def _images(samples: MappedSamples) -> NDArray[np.int64]:
    """Return how many images each sample shows."""
    counts = [np.diff(columns.sizes.ends) // 2 for columns in samples.batches]
    found: NDArray[np.int64] = np.concatenate(counts)[samples.rows]
    return found


def _heads(columns: Columns) -> _Heads:
    ids, ends = columns.input_ids.values[: columns.input_ids.ends[-1]], columns.input_ids.ends
    starts, stops = ends[:-1].astype(np.int64), ends[1:]
    marks = np.append(np.flatnonzero(ids == IMAGE_TOKEN_INDEX), len(ids))
    first = marks[np.searchsorted(marks, starts)]
    lengths = np.where(first < stops, first - starts + 1, 0)
    place = np.arange(len(ids)) - np.repeat(starts, np.diff(ends))
    # Multilinear hashing: each place has a random factor, and sums are taken modulo 2⁶⁴.
    factors = np.random.default_rng(0).integers(
        0, 2**64, int(lengths.max(initial=0)) + 1, np.uint64
    )
    head = place < np.repeat(lengths, np.diff(ends))
    terms = np.zeros(len(ids) + 1, np.uint64)
    terms[1:][head] = ids[head].astype(np.uint64) * factors[place[head]]
    running = np.cumsum(terms)
    runs = columns.targets.values.reshape(-1, 2)
    counts = np.diff(columns.targets.ends) // 2
    inside = (runs[:, 0] < np.repeat(lengths, counts)) & (runs[:, 1] > 1)
    learned = np.zeros(len(starts), bool)
    learned[np.repeat(np.arange(len(starts)), counts)[inside]] = True
    return _Heads(lengths, running[starts + lengths] - running[starts], learned)


def _joined(heads: list[_Heads]) -> _Heads:
    lengths, digests, learned = (np.concatenate(columns) for columns in zip(*heads, strict=True))
    return _Heads(lengths, digests, learned)
