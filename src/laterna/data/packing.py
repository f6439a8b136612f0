"""Which samples share a row, and which rows share a forward pass: planned, never left to chance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from laterna.records import Pack, Sample


def epoch_order(count: int, seed: int, epoch: int) -> list[int]:
    """Return the order in which an epoch visits `count` samples: a permutation by seed and epoch.

    `seed` and `epoch` are not negative.
    """
    order: list[int] = np.random.default_rng([seed, epoch]).permutation(count).tolist()
    return order


def plan_packs(samples: Sequence[Sample], *, row_tokens: int) -> list[Pack]:
    """Put the samples of one optimiser step into rows of at most `row_tokens` tokens.

    `row_tokens` 0 gives one sample a row, in order; `fit_rows` says how the others are put.
    """
    rows = fit_rows([sample.length for sample in samples], row_tokens)
    return [Pack(samples=tuple(samples[place] for place in row)) for row in rows]


def fit_rows(lengths: Sequence[int], row_tokens: int) -> list[list[int]]:
    """Return the places of the lengths that share each row.

    First-fit-decreasing: the longest first, each into the first row with room. A sample longer
    than `row_tokens` has a row to itself. `row_tokens` 0 gives one a row, in order.
    """
    if row_tokens == 0:
        return [[place] for place in range(len(lengths))]
    rows: list[list[int]] = []
    room: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda one: -lengths[one]):
        fitting = (index for index, left in enumerate(room) if lengths[place] <= left)
        index = next(fitting, len(rows))
        if index == len(rows):
            rows.append([])
            room.append(row_tokens)
        rows[index].append(place)
        room[index] -= lengths[place]
    return rows


def plan_batches(packs: Sequence[Pack], *, micro_tokens: int) -> list[list[Pack]]:
    """Split the packs of one optimiser step into micro-batches, rows of like length together."""
    batches = fit_batches([pack.length for pack in packs], micro_tokens)
    return [[packs[place] for place in batch] for batch in batches]


def fit_batches(lengths: Sequence[int], micro_tokens: int) -> list[list[int]]:
    """Return the places of the rows that share each micro-batch.

    The padded size of a micro-batch, its rows times its longest, is at most `micro_tokens`; a row
    longer than that has a micro-batch to itself.
    """
    batches: list[list[int]] = []
    longest = 0
    for place in sorted(range(len(lengths)), key=lambda one: -lengths[one]):
        if batches and (len(batches[-1]) + 1) * longest <= micro_tokens:
            batches[-1].append(place)
        else:
            batches.append([place])
            longest = lengths[place]  # the others come in falling order
    return batches
