"""Which rows of the prepared sources an epoch holds, how often, and which are held out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from laterna.data.packing import each_its_own
from laterna.data.preparation.samples import MappedSamples
from laterna.errors import LaternaError
from laterna.recipe import SourceSettings

HELD_OUT = 0x4E1D
"""Begins the seed of what is held out, so that it is drawn apart from all else."""


def kept_rows(lengths: Sequence[NDArray[np.int64]], max_tokens: int) -> list[NDArray[np.int64]]:
    """Return the rows of each source that can be used, counted over all sources."""
    first = np.cumsum([0, *map(len, lengths)])
    return [
        start + np.flatnonzero((found >= 0) & (found <= max_tokens))
        for start, found in zip(first, lengths, strict=False)
    ]


def insist_on_shares(sources: Sequence[SourceSettings], held_out: float) -> None:
    """Raise LaternaError for a weight or a share that is none."""
    for source in sources:
        if source.weight < 0:
            raise LaternaError(f"{source.data}: weight = {source.weight}: give 0 or more")
    if not 0 <= held_out < 1:
        raise LaternaError(f"held_out = {held_out}: give a share from 0 to less than 1")


def divide(
    kept: Sequence[NDArray[np.int64]],
    sources: Sequence[SourceSettings],
    samples_of: Callable[[NDArray[np.int64]], MappedSamples],
    *,
    held_out: float,
    seed: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows of an epoch, and those held out: all of a source of weight 0, and of the
    others those about a share of their pictures.

    `kept` are the rows of each source that can be used, `samples_of` makes samples of rows. `seed`
    decides which pictures are held out, and which records of a source whose weight is no whole
    number are taken.
    """
    weights = [source.weight for source in sources]
    apart = [
        _drawn_apart(rows, samples_of, held_out if weight else 1.0, seed=[HELD_OUT, seed, number])
        for number, (rows, weight) in enumerate(zip(kept, weights, strict=True))
    ]
    rest = [np.setdiff1d(rows, held) for rows, held in zip(kept, apart, strict=True)]
    return _mixture(rest, weights, seed), np.concatenate(apart)


def _drawn_apart(
    rows: NDArray[np.int64],
    samples_of: Callable[[NDArray[np.int64]], MappedSamples],
    share: float,
    seed: list[int],
) -> NDArray[np.int64]:
    """Draw a share of a source's pictures, at least one, and return the rows about them.

    A record without a picture is drawn as if it had one of its own: what is held out shows
    nothing that is trained on.
    """
    if not share or not len(rows):
        return rows[:0]
    first = each_its_own(samples_of(rows).first_pictures())
    pictures = np.unique(first)
    drawn = np.random.default_rng(seed).permutation(pictures)
    return rows[np.isin(first, drawn[: max(1, round(share * len(pictures)))])]


def _mixture(
    kept: Sequence[NDArray[np.int64]], weights: Sequence[float], seed: int
) -> NDArray[np.int64]:
    """Return the rows of an epoch: each row as often as its source's weight says.

    Of a weight's fraction, that share of the rows is drawn, once for all epochs.
    """
    rows = []
    for number, (found, weight) in enumerate(zip(kept, weights, strict=True)):
        times, share = divmod(weight, 1.0)
        drawn = np.random.default_rng([seed, number]).permutation(len(found))
        some = np.sort(drawn[: round(share * len(found))])
        rows.append(np.concatenate([np.tile(found, int(times)), found[some]]))
    return np.concatenate(rows) if rows else np.empty(0, np.int64)
