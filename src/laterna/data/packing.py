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

    First-fit-decreasing: the longest first, each into the first row with room. A sample longer
    than `row_tokens` has a row to itself. `row_tokens` 0 gives one sample a row, in order.
    """
    if row_tokens == 0:
        return [Pack(samples=(sample,)) for sample in samples]
    rows: list[list[Sample]] = []
    room: list[int] = []
    for sample in sorted(samples, key=lambda one: -one.length):
        length = sample.length
        fitting = (index for index, left in enumerate(room) if length <= left)
        index = next(fitting, len(rows))
        if index == len(rows):
            rows.append([])
            room.append(row_tokens)
        rows[index].append(sample)
        room[index] -= length
    return [Pack(samples=tuple(row)) for row in rows]


def plan_batches(packs: Sequence[Pack], *, micro_tokens: int) -> list[list[Pack]]:
    """Split the packs of one optimiser step into micro-batches, rows of like length together.

    The padded size of a micro-batch, its rows times its longest, is at most `micro_tokens`; a row
    longer than that has a micro-batch to itself.
    """
    batches: list[list[Pack]] = []
    longest = 0
    for pack in sorted(packs, key=lambda one: -one.length):
        if batches and (len(batches[-1]) + 1) * longest <= micro_tokens:
            batches[-1].append(pack)
        else:
            batches.append([pack])
            longest = pack.length  # the others come in falling order
    return batches
