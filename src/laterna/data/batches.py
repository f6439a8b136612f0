"""Packs become the tensors of one forward pass.

Shapes: r rows · t tokens of a row, pictures expanded.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from laterna.records import PICTURE_TOKEN, Batch, Pack, Record, Sample


class _Row(Record, frozen=True):
    """A row as it grows: one entry a token in each list."""

    input_ids: list[int]
    position_ids: list[int]
    targets: list[bool]
    picture_mask: list[bool]


def collate(packs: Sequence[Pack], *, pad_id: int = 0) -> Batch:
    """Make a batch of one row a pack, each picture taking its sample's `picture_tokens` places.

    Rows are padded on the right to the longest. Positions restart with every sample and with the
    padding. A target at t is predicted from the hidden state at t - 1, so the first token of a
    sample is never a target: what stands before it is another chat. Pixels or features are left
    to the caller (`msgspec.structs.replace`), in the order of `pictures`.

    Raises ValueError for a sample whose pictures' tokens are not counted.
    """
    rows = [_row(pack, pad_id) for pack in packs]
    width = max(len(row.input_ids) for row in rows)
    for row in rows:
        padding = width - len(row.input_ids)
        row.input_ids.extend([pad_id] * padding)
        row.position_ids.extend(range(padding))
        row.targets.extend([False] * padding)
        row.picture_mask.extend([False] * padding)
    samples = [sample for pack in packs for sample in pack.samples]
    return Batch(
        ids=tuple(sample.id for sample in samples),
        input_ids_rt=torch.tensor([row.input_ids for row in rows], dtype=torch.long),
        position_ids_rt=torch.tensor([row.position_ids for row in rows], dtype=torch.long),
        targets_rt=torch.tensor([row.targets for row in rows], dtype=torch.bool),
        picture_mask_rt=torch.tensor([row.picture_mask for row in rows], dtype=torch.bool),
        pictures=tuple(name for sample in samples for name in sample.pictures),
        picture_tokens=tuple(count for sample in samples for count in sample.picture_tokens),
    )


def _row(pack: Pack, pad_id: int) -> _Row:
    row = _Row(input_ids=[], position_ids=[], targets=[], picture_mask=[])
    for sample in pack.samples:
        start = len(row.input_ids)
        _append(row, sample, pad_id)
        row.position_ids.extend(range(sample.length))
        row.targets[start] = False
    return row


def _append(row: _Row, sample: Sample, pad_id: int) -> None:
    tokens = dict(zip(sample.picture_slots, sample.picture_tokens, strict=True))
    for slot, (token, target) in enumerate(zip(sample.input_ids, sample.targets, strict=True)):
        is_picture = token == PICTURE_TOKEN
        places = tokens[slot] if is_picture else 1
        row.input_ids.extend([pad_id if is_picture else token] * places)
        row.targets.extend([target and not is_picture] * places)
        row.picture_mask.extend([is_picture] * places)
