"""Which samples share a row, and which rows share a forward pass: planned, never left to chance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from laterna.records import Pack, Sample


def epoch_order(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return the order in which an epoch visits `count` samples: a permutation by seed and epoch.

    `seed` and `epoch` are not negative.
    """
    order: NDArray[np.int64] = np.random.default_rng([seed, epoch]).permutation(count)
    return order


def epoch_families(images: NDArray[np.int64], seed: int, epoch: int) -> NDArray[np.int64]:
    """Return an order like `epoch_order`'s in which samples about one image stand together.

    `images` numbers the first image of each sample, -1 for none: images are permuted, and
    the samples about each stay in order, so most siblings fall into one optimizer step.
    """
    families = each_its_own(images)
    _, first, family = np.unique(families, return_index=True, return_inverse=True)
    by_first = np.argsort(first)  # families in the order of their first samples are permuted
    rank = np.empty(len(first), np.int64)
    rank[by_first[epoch_order(len(first), seed, epoch)]] = np.arange(len(first))
    order: NDArray[np.int64] = np.argsort(rank[family], kind="stable")
    return order


def each_its_own(images: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number images so that what shows none, -1, counts as about an image of its own."""
    after = images.max(initial=0) + 1 + np.arange(len(images))
    return np.where(images < 0, after, images)


def share_key(sample: Sample) -> tuple[str, tuple[int, ...]] | None:
    """Return what samples must have in common to share an image's tokens; None where it cannot.

    That is the image, and all ids up to it. A sample cannot share whose own words are learned
    before the image, or that has no image.
    """
    if not sample.images:
        return None
    end = sample.image_slots[0] + 1
    if any(sample.targets[1:end]):
        return None
    return sample.images[0], sample.input_ids[:end]


def plan_packs(
    samples: Sequence[Sample],
    *,
    pack_length: int,
    shared_prefix: bool = False,
    micro_batch_tokens: int = 0,
) -> list[Pack]:
    """Put the samples of one optimizer step into rows of at most `pack_length` tokens.

    `pack_length` 0 gives one sample a row, in order; `fit_rows` says how the others are put.

    `shared_prefix` lets samples of one `share_key` stand behind one another as one, with what
    they share (the image, and the question where it is the same) written once; such a family is
    cut where it would be longer than `pack_length`, or than `micro_batch_tokens` where that is 0.
    """
    alone = [Pack(samples=(sample,)) for sample in samples]
    units = _families(samples, pack_length or micro_batch_tokens) if shared_prefix else alone
    rows = fit_rows([unit.length for unit in units], pack_length)
    return [_joined([units[place] for place in row]) for row in rows]


def fit_rows(lengths: Sequence[int], pack_length: int) -> list[list[int]]:
    """Return the places of the lengths that share each row.

    First-fit-decreasing: the longest first, each into the first row with room. A sample longer
    than `pack_length` has a row to itself. `pack_length` 0 gives one a row, in order.
    """
    if pack_length == 0:
        return [[place] for place in range(len(lengths))]
    rows: list[list[int]] = []
    room: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda one: -lengths[one]):
        fitting = (index for index, left in enumerate(room) if lengths[place] <= left)
        index = next(fitting, len(rows))
        if index == len(rows):
            rows.append([])
            room.append(pack_length)
        rows[index].append(place)
        room[index] -= lengths[place]
    return rows


def without_image(pack: Pack, image: str) -> Pack:
    """Return a pack without the samples that show an image; the others share what they did."""
    kept = [sample for sample in pack.samples if image not in sample.images]
    if not any(pack.shared):
        return Pack(samples=tuple(kept))
    return _joined(_families(kept, 0))


def _families(samples: Sequence[Sample], longest: int) -> list[Pack]:
    """Group the samples that may share an image, in the order of each family's first."""
    families: dict[object, list[Sample]] = {}
    for place, sample in enumerate(samples):
        families.setdefault(share_key(sample) or place, []).append(sample)
    return [
        unit
        for family in families.values()
        for members, end in _questions(family)
        for unit in _cut(members, end, longest)
    ]


def _questions(family: Sequence[Sample]) -> Iterator[tuple[list[Sample], int]]:
    """Split a family that shares an image by what is asked, where that writes fewer tokens.

    Samples that are asked the same share the question too, as the five captions of an image do;
    the others stand behind one copy of the image. Each part comes with the ids that it shares.
    """
    if len(family) == 1:
        yield list(family), 0
        return
    end = family[0].image_slots[0] + 1
    image = family[0].length_of(end)
    asked: dict[object, list[Sample]] = {}
    for sample in family:
        asked.setdefault((sample.images, sample.input_ids[: _answer(sample)]), []).append(sample)
    others: list[Sample] = []
    for members in asked.values():
        answer = _answer(members[0])
        saved = (len(members) - 1) * (members[0].length_of(answer) - image)
        if len(asked) == 1 or saved > image:
            yield members, answer
        else:
            others += members
    if others:
        yield others, end


def _answer(sample: Sample) -> int:
    """Return the place of the first id that is learned; behind the image in who shares one."""
    return next((at for at, target in enumerate(sample.targets) if at and target), 0) or len(
        sample.input_ids
    )


def _cut(family: Sequence[Sample], end: int, longest: int) -> Iterator[Pack]:
    first = family[0]
    if len(family) == 1:
        yield Pack(samples=(first,))
        return
    prefix = first.length_of(end)
    members: list[Sample] = []
    length = 0
    for sample in family:
        if members and longest and length + sample.length - prefix > longest:
            yield _family(members, end)
            members, length = [], 0
        length += sample.length - (prefix if members else 0)
        members.append(sample)
    yield _family(members, end)


def _family(members: Sequence[Sample], end: int) -> Pack:
    if len(members) == 1:
        return Pack(samples=tuple(members))
    return Pack(samples=tuple(members), shared=(0, *[end] * (len(members) - 1)))


def _joined(units: Sequence[Pack]) -> Pack:
    samples = tuple(sample for unit in units for sample in unit.samples)
    shared = tuple(ids for unit in units for ids in unit.shared or (0,) * len(unit.samples))
    return Pack(samples=samples, shared=shared if any(shared) else ())


def plan_batches(packs: Sequence[Pack], *, micro_batch_tokens: int) -> list[list[Pack]]:
    """Split the packs of one optimizer step into micro-batches, rows of like length together."""
    batches = fit_batches([pack.length for pack in packs], micro_batch_tokens)
    return [[packs[place] for place in batch] for batch in batches]


def fit_batches(lengths: Sequence[int], micro_batch_tokens: int) -> list[list[int]]:
    """Return the places of the rows that share each micro-batch.

    The padded size of a micro-batch, its rows times its longest, is at most
    `micro_batch_tokens`; a row longer than that has a micro-batch to itself.
    """
    batches: list[list[int]] = []
    longest = 0
    for place in sorted(range(len(lengths)), key=lambda one: -lengths[one]):
        if batches and (len(batches[-1]) + 1) * longest <= micro_batch_tokens:
            batches[-1].append(place)
        else:
            batches.append([place])
            longest = lengths[place]  # the others come in falling order
    return batches
