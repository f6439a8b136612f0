"""Packs become the tensors of one forward pass.

Shapes: r rows · t tokens of a row, images expanded.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence

import torch

from laterna.records import IMAGE_TOKEN_INDEX, Batch, Pack, Record, Sample, SharedPrefix


class _Row(Record, frozen=True):
    """A row as it grows: one entry a token in each list."""

    input_ids: list[int]
    position_ids: list[int]
    targets: list[bool]
    image_mask: list[bool]
    blocks: list[int]
    sees: list[int]
    previous: list[int]


def collate(packs: Sequence[Pack], *, pad_id: int = 0) -> Batch:
    """Make a batch of one row a pack, each image taking its sample's `image_tokens` places.

    Rows are padded on the right to the longest. Positions restart with every sample and with the
    padding. A target at t is predicted from the hidden state at t - 1, so the first token of a
    sample is never a target: what stands before it is another chat. Of samples that share a
    image (`Pack.shared`) the second and later go on behind it. Pixels or features are left
    to the caller (`msgspec.structs.replace`), in the order of `images`.

    Raises ValueError for a sample whose images' tokens are not counted.
    """
    rows = [_row(pack, pad_id) for pack in packs]
    width = max(len(row.input_ids) for row in rows)
    for row in rows:
        padding = width - len(row.input_ids)
        _append_block(row, padding, sees=None, after=len(row.input_ids) - 1)
        row.input_ids.extend([pad_id] * padding)
        row.position_ids.extend(range(padding))
        row.targets.extend([False] * padding)
        row.image_mask.extend([False] * padding)
    samples = [sample for pack in packs for sample in pack.samples]
    shown = [shown for pack in packs for shown in _images(pack)]
    return Batch(
        ids=tuple(sample.id for sample in samples),
        input_ids_rt=torch.tensor([row.input_ids for row in rows], dtype=torch.long),
        position_ids_rt=torch.tensor([row.position_ids for row in rows], dtype=torch.long),
        loss_mask_rt=torch.tensor([row.targets for row in rows], dtype=torch.bool),
        image_mask_rt=torch.tensor([row.image_mask for row in rows], dtype=torch.bool),
        images=tuple(name for name, _ in shown),
        image_tokens=tuple(count for _, count in shown),
        sharing=_sharing(rows) if any(pack.shared for pack in packs) else None,
    )


def _images(pack: Pack) -> Iterator[tuple[str, int]]:
    """Yield each image of a row with its tokens, in reading order, a shared one once."""
    for sample, ids in _shared(pack):
        first = bisect_left(sample.image_slots, ids)
        counts = sample.image_tokens[first:]
        yield from zip(sample.images[first:], counts, strict=False)  # names may be left out


def _sharing(rows: Sequence[_Row]) -> SharedPrefix:
    return SharedPrefix(
        segment_ids_rt=torch.tensor([row.blocks for row in rows], dtype=torch.long),
        attends_to_rt=torch.tensor([row.sees for row in rows], dtype=torch.long),
        predicted_from_rt=torch.tensor([row.previous for row in rows], dtype=torch.long),
    )


def _shared(pack: Pack) -> Iterator[tuple[Sample, int]]:
    return zip(pack.samples, pack.shared or (0,) * len(pack.samples), strict=True)


def _row(pack: Pack, pad_id: int) -> _Row:
    row = _Row(
        input_ids=[], position_ids=[], targets=[], image_mask=[], blocks=[], sees=[], previous=[]
    )
    family = (0, 0, 0)
    pairs = list(_shared(pack))
    for place, (sample, ids) in enumerate(pairs):
        start = len(row.input_ids)
        _append(row, sample, ids, pad_id)
        if ids:
            block, prefix, last = family
        else:
            row.targets[start] = False
            heads = place + 1 < len(pairs) and pairs[place + 1][1]
            prefix = sample.length_of(heads) if heads else 0
            last = start + prefix - 1
            block = _append_block(row, prefix, sees=None, after=start - 1)
            family = (block, prefix, last)
        rest = len(row.input_ids) - len(row.blocks)
        _append_block(row, rest, sees=block if prefix else None, after=last)
        row.position_ids.extend(range(prefix if ids else 0, sample.length))
    return row


def _append_block(row: _Row, tokens: int, *, sees: int | None, after: int) -> int:
    """Write down a block of tokens, the first of which follows the token at `after`."""
    block = row.blocks[-1] + 1 if row.blocks else 0
    start = len(row.blocks)
    row.blocks.extend([block] * tokens)
    row.sees.extend([block if sees is None else sees] * tokens)
    row.previous.extend(
        max(0, after if place == 0 else start + place - 1) for place in range(tokens)
    )
    return block


def _append(row: _Row, sample: Sample, first: int, pad_id: int) -> None:
    """Append a sample's tokens from its id `first` on."""
    tokens = dict(zip(sample.image_slots, sample.image_tokens, strict=True))
    for slot in range(first, len(sample.input_ids)):
        token, target = sample.input_ids[slot], sample.targets[slot]
        is_image = token == IMAGE_TOKEN_INDEX
        places = tokens[slot] if is_image else 1
        row.input_ids.extend([pad_id if is_image else token] * places)
        row.targets.extend([target and not is_image] * places)
        row.image_mask.extend([is_image] * places)
