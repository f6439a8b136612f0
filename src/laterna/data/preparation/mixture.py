"""Which rows of the prepared sources an epoch holds, how often, and which are held out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from laterna.data.packing import each_its_own
from laterna.data.preparation.samples import Shown
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


class Division(NamedTuple):
    """What becomes of the rows that can be used."""

    rows: NDArray[np.int64]
    """Of an epoch, each as often as it comes in it."""
    apart: NDArray[np.int64]
    """Held out: looked at, not trained on."""
    beside: NDArray[np.int64]
    """Neither: they show a picture that is held out, and are not held out with it."""


def divide(
    kept: Sequence[NDArray[np.int64]],
    sources: Sequence[SourceSettings],
    shown: Callable[[], Shown],
    *,
    held_out: float,
    seed: int,
) -> Division:
    """Divide the rows that can be used into those of an epoch and those held out: all of a source
    of weight 0, and of the others those about a share of their pictures.

    No picture of a row that is held out is shown by a row of the epoch, whatever their sources:
    `shown` says which pictures are one, and is asked where anything is held out. `kept` are the
    rows of each source that can be used. `seed` decides which pictures are held out, and which
    records of a source whose weight is no whole number are taken.
    """
    weights = [source.weight for source in sources]
    if not held_out and all(weights):
        nothing = np.empty(0, np.int64)
        return Division(_mixture(kept, weights, seed), nothing, nothing)
    pictures = shown()
    # A record without a picture is drawn as if it had one of its own.
    first = each_its_own(pictures.first())
    drawn = np.empty(0, np.int64)
    for number, (rows, weight) in enumerate(zip(kept, weights, strict=True)):
        if weight:
            drawn = _draw(first[rows], drawn, held_out, seed=[HELD_OUT, seed, number])
    apart = np.concatenate(
        [
            rows[np.isin(first[rows], drawn)] if weight else rows
            for rows, weight in zip(kept, weights, strict=True)
        ]
    )
    touched = pictures.rows_with(pictures.of(apart))
    left = [np.setdiff1d(rows, apart) for rows in kept]
    beside = np.concatenate([rows[touched[rows]] for rows in left])
    return Division(_mixture([rows[~touched[rows]] for rows in left], weights, seed), apart, beside)


def _draw(
    first: NDArray[np.int64], drawn: NDArray[np.int64], share: float, seed: list[int]
) -> NDArray[np.int64]:
    """Return the pictures drawn before, with as many more of a source's as make a share of them
    held out, at least one.

    `first` is the picture of each of the source's rows.
    """
    if not share or not len(first):
        return drawn
    mine = np.random.default_rng(seed).permutation(np.unique(first))
    before = np.isin(mine, drawn)
    more = max(1, round(share * len(mine))) - int(before.sum())
    return np.concatenate([drawn, mine[~before][: max(0, more)]])


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
