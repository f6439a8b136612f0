"""Prepared samples as a sequence that lies on disk, and which of them an epoch holds."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from laterna.data.images.files import ImageFiles, SeveralImages
from laterna.data.images.tokens import ImageCounter, SameTokens
from laterna.data.masking import loss_mask, targets_of
from laterna.data.packing import each_its_own
from laterna.data.preparation.checking import UNCHECKED
from laterna.errors import LaternaError
from laterna.recipe import LossOn, SourceSettings
from laterna.records import IMAGE_TOKEN_INDEX, Sample

SEPARATOR = ":"
"""Between the number of a mixture's source and the name that an image has there."""


class Columns:
    """The columns of one record batch, as arrays that are views of the file."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        self.ids = batch.column(0)
        self.images = batch.column(3)
        self.input_ids = _Lists(batch.column(1))
        self.targets = _Lists(batch.column(2))
        self.sizes = _Lists(batch.column(4))

    def __len__(self) -> int:
        return len(self.ids)

    def sizes_of(self, row: int) -> list[tuple[int, int]]:
        """Return width and height of each image of a row."""
        sides = self.sizes[row].tolist()
        return list(zip(sides[::2], sides[1::2], strict=True))

    def lengths(self, counter: ImageCounter) -> NDArray[np.int64]:
        """Return the length of every row with its images expanded.

        It is -1 where an image's size has no count. Raises LaternaError where the counter needs
        sizes and the images were not looked at.
        """
        counts = self._image_tokens(counter)
        ends = self.sizes.ends // 2
        text = np.diff(self.input_ids.ends) - np.diff(ends)
        lengths: NDArray[np.int64] = text + _sums(counts, ends)
        lengths[_sums(counts < 0, ends) > 0] = -1
        return lengths

    def _image_tokens(self, counter: ImageCounter) -> NDArray[np.int64]:
        """Return the tokens of every image of every row, in turn; -1 where there is no count."""
        sides = self.sizes.values.reshape(-1, 2)
        if isinstance(counter, SameTokens):
            return np.full(len(sides), counter.tokens, np.int64)
        sizes, which = np.unique(sides, axis=0, return_inverse=True)
        return np.array([_count(counter, *size) for size in sizes.tolist()], np.int64)[which]

    def learned(self) -> NDArray[np.int64]:
        """Return how many tokens of every row are learned."""
        runs = self.targets.values.reshape(-1, 2)
        return _sums(runs[:, 1] - runs[:, 0], self.targets.ends // 2)


def _sums(values: NDArray[np.generic], ends: NDArray[np.signedinteger]) -> NDArray[np.int64]:
    """Return the sum of the values of each list."""
    running = np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
    sums: NDArray[np.int64] = running[ends[1:]] - running[ends[:-1]]
    return sums


def _count(counter: ImageCounter, width: int, height: int) -> int:
    if (width, height) == UNCHECKED and not isinstance(counter, SameTokens):
        raise LaternaError(
            "the tokens of an image follow from its size here: say where the `images` are"
        )
    try:
        return counter(width, height)
    except LaternaError:
        return -1


class _Lists:
    """A column of lists of whole numbers."""

    def __init__(self, column: pa.ListArray) -> None:
        self.ends: NDArray[np.int32] = column.offsets.to_numpy()
        self.values: NDArray[np.int32] = column.values.to_numpy()

    def __getitem__(self, row: int) -> NDArray[np.int32]:
        values: NDArray[np.int32] = self.values[self.ends[row] : self.ends[row + 1]]
        return values


class Shown(NamedTuple):
    """Which images the rows of all sources show, whether or not they are used."""

    numbers: NDArray[np.int64]
    """Of every image of every row in turn: equal numbers, one image."""
    ends: NDArray[np.int64]
    """The place among them at which each row begins, and the end."""

    def first(self) -> NDArray[np.int64]:
        """Return the number of each row's first image; -1 for none."""
        shows = np.diff(self.ends) > 0
        first = np.full(len(shows), -1, np.int64)
        first[shows] = self.numbers[self.ends[:-1][shows]]
        return first

    def of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the numbers of the images that some rows show, as they come in the sources."""
        used = np.zeros(len(self.ends) - 1, bool)
        used[rows] = True
        numbers: NDArray[np.int64] = self.numbers[np.repeat(used, np.diff(self.ends))]
        return numbers

    def rows_with(self, images: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Say of every row whether it shows any of some images."""
        found: NDArray[np.bool_] = _sums(np.isin(self.numbers, images), self.ends) > 0
        return found


class MappedSamples(Sequence[Sample]):
    """Samples in the order of `rows`, made when they are asked for.

    `rows` numbers the rows of all batches of all sources together; a row may come several times.
    In a mixture, an image's name begins with its source's number, for two sources may use one
    name for two images.
    """

    def __init__(
        self,
        sources: Sequence[Sequence[Columns]],
        rows: NDArray[np.int64],
        counter: ImageCounter,
        *,
        loss_on: LossOn = "answers",
        opening: int = 0,
    ) -> None:
        """`loss_on` and `opening` are those of `loss_mask`."""
        self._loss_on, self._opening = loss_on, opening
        self._batches = [columns for source in sources for columns in source]
        self._source = [number for number, source in enumerate(sources) for _ in source]
        self._first = np.cumsum([0, *map(len, self._batches)]).tolist()
        self._rows = rows
        self._counter = counter
        self._mixed = len(sources) > 1

    @property
    def batches(self) -> list[Columns]:
        """The record batches of all sources, in order."""
        return self._batches

    @property
    def rows(self) -> NDArray[np.int64]:
        """The row of each sample, counted over all batches."""
        return self._rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, place: int) -> Sample: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Sample]: ...
    def __getitem__(self, place: int | slice) -> Sample | Sequence[Sample]:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        batch, row = self._at(int(self._rows[place]))
        columns = self._batches[batch]
        ids = columns.input_ids[row]
        return Sample(
            id=columns.ids[row].as_py(),
            input_ids=tuple(ids.tolist()),
            targets=self._targets(columns, row, ids.tolist()),
            image_slots=tuple(np.flatnonzero(ids == IMAGE_TOKEN_INDEX).tolist()),
            images=self._names(batch, row),
            image_tokens=tuple(self._counter(*size) for size in columns.sizes_of(row)),
        )

    def learned(self) -> NDArray[np.int64]:
        """Return how many tokens of each sample are learned."""
        if self._loss_on == "answers":  # known without making a sample
            return np.concatenate([one.learned() for one in self._batches])[self._rows]
        return np.array([sum(sample.targets) for sample in self], np.int64)

    def _targets(self, columns: Columns, row: int, ids: Sequence[int]) -> tuple[bool, ...]:
        answers = targets_of(columns.targets[row].tolist(), len(ids))
        return loss_mask(answers, ids, self._loss_on, self._opening)

    def id_of(self, place: int) -> str:
        """Return a sample's id without making it."""
        batch, row = self._at(int(self._rows[place]))
        return str(self._batches[batch].ids[row].as_py())

    def first_images(self) -> NDArray[np.int64]:
        """Number each sample's first image: equal numbers, equal images; -1 for none.

        Found from the names' column alone, without making a sample.
        """
        return self._numbered()[0].first()[self._rows]

    def shown(self, identity: Callable[[str], str]) -> Shown:
        """Return what all rows show; in a mixture, names of one `identity` are one image."""
        shown, names = self._numbered()
        if not self._mixed:
            return shown
        seen: dict[str, int] = {}
        one = [seen.setdefault(identity(name), len(seen)) for name in names.to_pylist()]
        return Shown(np.array(one, np.int64)[shown.numbers], shown.ends)

    def image_names(self) -> list[str]:
        """Return the names of all images, each once, without making the samples."""
        shown, names = self._numbered()
        unique, first = np.unique(shown.of(self._rows), return_index=True)
        found: list[str] = names.take(unique[np.argsort(first)]).to_pylist()
        return found

    def _numbered(self) -> tuple[Shown, pa.Array]:
        """Return what all rows show, and the images' names by their numbers."""
        columns = []
        for source, batch in zip(self._source, self._batches, strict=True):
            column = batch.images.flatten()
            if self._mixed:
                column = pc.binary_join_element_wise(str(source), column, SEPARATOR)
            columns.append(column)
        names = pa.chunked_array(columns, pa.string()).cast(pa.large_string()).combine_chunks()
        encoded = names.dictionary_encode()
        counts = [np.diff(batch.images.offsets.to_numpy()) for batch in self._batches]
        ends = np.concatenate([[0], np.cumsum(np.concatenate(counts), dtype=np.int64)])
        return Shown(encoded.indices.to_numpy().astype(np.int64), ends), encoded.dictionary

    def _at(self, number: int) -> tuple[int, int]:
        """Return the batch of a row, and its number there."""
        batch = bisect_right(self._first, number) - 1
        return batch, number - self._first[batch]

    def _names(self, batch: int, row: int) -> tuple[str, ...]:
        prefix = f"{self._source[batch]}{SEPARATOR}" if self._mixed else ""
        return tuple(prefix + name for name in self._batches[batch].images[row].as_py())


class MixedImages(SeveralImages):
    """The images of a mixture, each under its source's number and its name there."""

    def __init__(self, sources: Iterable[ImageFiles]) -> None:
        self._sources = list(sources)

    @property
    def where(self) -> str:
        """The places of all, in turn."""
        return "\n\n".join(source.where for source in self._sources)

    def place_of(self, name: str) -> tuple[ImageFiles, str]:
        """Return the source whose number the name begins with."""
        number, _, own = name.partition(SEPARATOR)
        return self._sources[int(number)], own


HELD_OUT = 0x4E1D
"""Begins the seed of what is held out, so that it is drawn apart from all else."""


def kept_rows(lengths: Sequence[NDArray[np.int64]], max_tokens: int) -> list[NDArray[np.int64]]:
    """Return the rows of each source that can be used, counted over all sources."""
    first = np.cumsum([0, *map(len, lengths)])
    return [
        start + np.flatnonzero((found >= 0) & (found <= max_tokens))
        for start, found in zip(first, lengths, strict=False)
    ]


def require_shares(sources: Sequence[SourceSettings], validation: float) -> None:
    """Raise LaternaError for a weight or a share that is none."""
    for source in sources:
        if source.weight < 0:
            raise LaternaError(f"{source.data}: weight = {source.weight}: give 0 or more")
    if not 0 <= validation < 1:
        raise LaternaError(f"validation = {validation}: give a share from 0 to less than 1")


class Division(NamedTuple):
    """What becomes of the rows that can be used."""

    rows: NDArray[np.int64]
    """Of an epoch, each as often as it comes in it."""
    apart: NDArray[np.int64]
    """Held out: looked at, not trained on."""
    beside: NDArray[np.int64]
    """Neither: they show an image that is held out, and are not held out with it."""


def divide(
    kept: Sequence[NDArray[np.int64]],
    sources: Sequence[SourceSettings],
    shown: Callable[[], Shown],
    *,
    validation: float,
    seed: int,
) -> Division:
    """Divide the rows that can be used into those of an epoch and those held out: all of a source
    of weight 0, and of the others those about a share of their images.

    No image of a row that is held out is shown by a row of the epoch, whatever their sources:
    `shown` says which images are one, and is asked where anything is held out. `kept` are the
    rows of each source that can be used. `seed` decides which images are held out, and which
    records of a source whose weight is no whole number are taken.
    """
    weights = [source.weight for source in sources]
    if not validation and all(weights):
        nothing = np.empty(0, np.int64)
        return Division(_mixture(kept, weights, seed), nothing, nothing)
    images = shown()
    # A record without an image is drawn as if it had one of its own.
    first = each_its_own(images.first())
    drawn = np.empty(0, np.int64)
    for number, (rows, weight) in enumerate(zip(kept, weights, strict=True)):
        if weight:
            drawn = _draw(first[rows], drawn, validation, seed=[HELD_OUT, seed, number])
    apart = np.concatenate(
        [
            rows[np.isin(first[rows], drawn)] if weight else rows
            for rows, weight in zip(kept, weights, strict=True)
        ]
    )
    touched = images.rows_with(images.of(apart))
    left = [np.setdiff1d(rows, apart) for rows in kept]
    beside = np.concatenate([rows[touched[rows]] for rows in left])
    return Division(_mixture([rows[~touched[rows]] for rows in left], weights, seed), apart, beside)


def _draw(
    first: NDArray[np.int64], drawn: NDArray[np.int64], share: float, seed: list[int]
) -> NDArray[np.int64]:
    """Return the images drawn before, with as many more of a source's as make a share of them
    held out, at least one.

    `first` is the image of each of the source's rows.
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
