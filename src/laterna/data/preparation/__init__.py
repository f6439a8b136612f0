"""Sources become samples that lie ready on disk: tokenized, masked, checked, counted.

`checking` (rows to samples, and why not) · `tokens` (many records to ids at once) · `workers`
(several processes side by side) · `cache` (the files) · `samples` (the files as a sequence, and
which of it is trained on, how often, and which is held out) · `sharing` (which samples can share a
image, and why not).

A prepared set is known by the content of the data, the tokenizer, the template and the place of the
images. What was killed goes on where it was, and what was dropped for an image is looked at
again when its file has changed.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from laterna.data.fingerprints import Fingerprints
from laterna.data.images.files import ImageFiles
from laterna.data.images.tokens import ImageCounter
from laterna.data.masking import opening_length
from laterna.data.preparation import cache
from laterna.data.preparation.checking import Dropped, Job, KeptImages
from laterna.data.preparation.samples import (
    Columns,
    MappedSamples,
    MixedImages,
    divide,
    kept_rows,
    require_shares,
)
from laterna.data.preparation.workers import Done, do_chunks, require_own_process
from laterna.data.sources import Source, open_source
from laterna.errors import LaternaError
from laterna.recipe import LossOn, SourceSettings
from laterna.records import Record

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PART_CHUNKS = 16
"""Chunks of a part: what a preparation that is killed has to do again at most, 8,192 rows."""
ALONE = 8
"""Chunks up to which starting other processes takes longer than doing them here."""

NO_ROWS = np.empty(0, np.int64)
FINGERPRINTS = "fingerprints"
"""Folder among the prepared sets that remembers what their sources' files hold."""

Progress = Callable[[str, int], None]
"""Called with a source's name and the rows of it that are done."""


class Prepared(Record, frozen=True):
    """The samples that can be trained on, and a count of the records that cannot."""

    samples: MappedSamples
    """Lie on disk: each is made when it is asked for."""
    validation: MappedSamples
    """Not among them: for looking at what has not been learned from. None where nothing is."""
    lengths: NDArray[np.int64]
    """Tokens of each sample, images expanded."""
    learned: NDArray[np.int64]
    """Tokens of each sample that are learned."""
    images: ImageFiles
    """Finds the samples' images."""
    dropped: dict[str, int]
    """Dropped records by reason, the most frequent reason first."""
    examples: dict[str, str]
    """What was wrong with the first record of each reason."""
    remarks: tuple[str, ...]
    """What was damaged in sets prepared before, and so was prepared again."""


def prepare(
    sources: Sequence[SourceSettings],
    tokenizer: PreTrainedTokenizerBase,
    *,
    template: str,
    image_tokens: ImageCounter,
    max_tokens: int,
    folder: Path,
    seed: int = 0,
    validation: float = 0.0,
    workers: int = 0,
    progress: Progress | None = None,
    known: Fingerprints | None = None,
    positions: int | None = None,
    loss_on: LossOn = "answers",
) -> Prepared:
    """Prepare a mixture of sources, or find it in `folder` where that was done before.

    `template` is the text of a Jinja chat template, `image_tokens` says how many tokens a
    image of a width and height takes. A sample longer than `max_tokens` or the language model's
    `positions`, images expanded, is dropped. `seed` and `validation` are as in `divide`; `workers`
    are processes, 0: as many as there are cores; `known` has what was seen of the sources at
    this start; `loss_on` is what the stage learns. Raises LaternaError for a source that cannot be
    read, and when no record remains.
    """
    require_shares(sources, validation)
    seen = known or Fingerprints(folder / FINGERPRINTS)
    preparing = _Preparing(seen, tokenizer, template, folder, _processes(workers), progress)
    places, damaged = zip(*map(preparing.of, sources), strict=True)
    parts = [_parts(place) for place in places]
    sets = [[Columns(batch) for part in own for batch in part.batches] for own in parts]
    dropped = [fault for own in parts for part in own for fault in part.dropped]
    images = [_images(*pair) for pair in zip(places, sources, strict=True)]
    lengths = [_lengths(columns, image_tokens) for columns in sets]
    dropped.extend(_too_long(sets, lengths, max_tokens, positions))
    opening = 0 if loss_on == "answers" else opening_length(tokenizer, template)
    samples_of = partial(
        MappedSamples, sets, counter=image_tokens, loss_on=loss_on, opening=opening
    )
    files: ImageFiles = MixedImages(images) if len(images) > 1 else images[0]
    shown = partial(samples_of(NO_ROWS).shown, files.identity)
    usable = kept_rows(lengths, min(max_tokens, positions or max_tokens))
    rows, apart, beside = divide(usable, sources, shown, validation=validation, seed=seed)
    dropped.extend(_shows_what_is_held_out(samples_of(beside)))
    _require_any(rows, dropped)
    samples = samples_of(rows)
    return Prepared(
        samples=samples,
        validation=samples_of(apart),
        lengths=np.concatenate(lengths)[rows],
        learned=samples.learned(),
        images=files,
        dropped=_counted(dropped),
        examples={fault.reason: fault.message for fault in reversed(dropped)},
        remarks=tuple(filter(None, damaged)),
    )


def _counted(dropped: Sequence[Dropped]) -> dict[str, int]:
    return dict(Counter(fault.reason for fault in dropped).most_common())


def _require_any(rows: NDArray[np.int64], dropped: Sequence[Dropped]) -> None:
    if len(rows):
        return
    listed = "; ".join(f"{count} × {reason}" for reason, count in _counted(dropped).items())
    first = f"; the first: {dropped[0].message}" if dropped else ""
    said = f"no record can be trained on ({listed or 'there were none'}){first}"
    raise LaternaError(said)


class _Preparing(NamedTuple):
    """What the preparation of all sources has in common."""

    known: Fingerprints
    tokenizer: PreTrainedTokenizerBase
    template: str
    folder: Path
    workers: int
    progress: Progress | None

    def of(self, settings: SourceSettings) -> tuple[Path, str]:
        """Do what is not yet done of a source, and anew what is damaged; return the folder of its
        parts, and what was damaged.
        """
        source = open_source(settings)
        where = str(Path(settings.images).resolve()) if settings.images else ""
        where += "\n+" if settings.allow_outside else ""
        place = self.folder / cache.cache_key(
            self.known.of(settings.data),
            source.form,
            settings.subset,
            settings.split,
            where,
            cache.tokenizer_digest(self.tokenizer),
            self.template,
        )
        with _alone_in(place):
            damaged = _forget_damaged(place)
            if cache.read_manifest(place) is not None:
                changed = _first_changed(place, settings)
                if changed is None:
                    return place, damaged
                cache.forget_from(place, changed)
            job = Job(
                form=source.form,
                template=self.template,
                prepared=str(place),
                images=settings.images,
                allow_outside=settings.allow_outside,
            )
            self._fill(place, source, job)
        return place, damaged

    def _fill(self, place: Path, source: Source, job: Job) -> None:
        """Write the parts that are not there."""
        cache.remove_unfinished(place)
        number, rows = 0, 0
        while cache.part_path(place, number).is_file():
            rows += cache.Part(cache.part_path(place, number)).rows
            number += 1
        chunks = source.chunks()
        head = list(islice(chunks, number * PART_CHUNKS, number * PART_CHUNKS + ALONE + 1))
        workers = self.workers if len(head) > ALONE else 1
        done = do_chunks(chain(head, chunks), job, self.tokenizer, workers)
        if self.progress is not None:
            done = _told(done, source.name, rows, self.progress)
        while group := list(islice(done, PART_CHUNKS)):
            dropped = [fault for one in group for fault in one.dropped]
            kept = [one.batch for one in group if one.kept]
            cache.write_part(cache.part_path(place, number), kept, dropped)
            number += 1
            rows += sum(one.kept for one in group) + len(dropped)
        cache.write_manifest(place, rows=rows, parts=number)


def _forget_damaged(place: Path) -> str:
    """Forget what is not as it was written, so that it is made again; return what that was."""
    whole, wrong = cache.whole_parts(place)
    try:
        manifest = cache.read_manifest(place)
        if manifest is not None and manifest.parts > whole and not wrong:
            wrong = f"{cache.part_path(place, whole)}: missing"
    except LaternaError as error:
        wrong = str(error)
    if not wrong:
        return ""
    cache.forget_from(place, whole)
    return f"{wrong}; it is prepared again"


def _images(place: Path, settings: SourceSettings) -> KeptImages:
    return KeptImages(place, settings.images, settings.allow_outside)


def _first_changed(place: Path, settings: SourceSettings) -> int | None:
    """Return the first part in which a record was dropped for an image whose file is another now,
    or is there at last.
    """
    parts = enumerate(_parts(place))
    faults = [(number, one) for number, part in parts for one in part.dropped if one.image]
    if not faults:
        return None  # and nothing is opened
    images = _images(place, settings)
    changed = (number for number, one in faults if images.stamp_now(one.image) != one.stamp)
    return next(changed, None)


def _told(done: Iterator[Done], name: str, rows: int, progress: Progress) -> Iterator[Done]:
    """Pass chunks on, telling how many rows are done with each."""
    for one in done:
        yield one
        rows += one.kept + len(one.dropped)
        progress(name, rows)


def _parts(place: Path) -> list[cache.Part]:
    manifest = cache.read_manifest(place)
    count = manifest.parts if manifest else 0
    return [cache.Part(cache.part_path(place, number)) for number in range(count)]


def _lengths(columns: Sequence[Columns], counter: ImageCounter) -> NDArray[np.int64]:
    found = [one.lengths(counter) for one in columns]
    return np.concatenate(found) if found else np.empty(0, np.int64)


def _too_long(
    sets: Sequence[Sequence[Columns]],
    lengths: Sequence[NDArray[np.int64]],
    max_tokens: int,
    positions: int | None,
) -> Iterator[Dropped]:
    """Yield what is to be said of each sample that is too long, or has an image without count."""
    for columns, lengths_of_source in zip(sets, lengths, strict=True):
        firsts = np.cumsum([0, *map(len, columns)])
        most = min(max_tokens, positions or max_tokens)
        bad = np.flatnonzero((lengths_of_source > most) | (lengths_of_source < 0))
        batches = np.searchsorted(firsts, bad, side="right") - 1
        for row, batch in zip(bad.tolist(), batches.tolist(), strict=True):
            record = columns[batch].ids[row - int(firsts[batch])].as_py()
            length, name = lengths_of_source[row], f"record {record}"
            if length < 0:
                reason, message = "image of a shape that has no tokens", f"{name}: too thin"
            elif positions and length > positions:
                reason = f"longer than the {positions} positions of the language model"
                message = f"{name}: {length} tokens long"
            else:
                reason = f"longer than {max_tokens} tokens"
                message = f"{name}: {length} tokens long"
            yield Dropped(id=record, reason=reason, message=message)


def _shows_what_is_held_out(samples: MappedSamples) -> Iterator[Dropped]:
    reason = "shows an image that is held out in another record"
    for place in range(len(samples)):
        name = samples.id_of(place)
        yield Dropped(id=name, reason=reason, message=f"record {name}")


def _processes(workers: int) -> int:
    if workers < 0:
        raise LaternaError(f"workers = {workers}: give 0 (as many as there are cores) or more")
    return workers or cores()


def cores() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _alone_in(place: Path) -> Iterator[None]:
    """Wait until no other process prepares the same: the ranks of one run ask all at once."""
    import fcntl

    require_own_process()  # a worker would wait for the process that waits for it
    place.mkdir(parents=True, exist_ok=True)
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
