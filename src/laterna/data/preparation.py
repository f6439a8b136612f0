"""Records become checked samples, and what cannot be used is dropped by name and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from laterna.data.chat import UnusableError
from laterna.data.masking import check_targets, render_record, tokenise_rendered
from laterna.data.picture_tokens import PictureCounter, count_pictures
from laterna.data.pictures import MissingPictureError, check_picture
from laterna.errors import LaternaError
from laterna.records import InstructionRecord, Record, Sample

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Prepared(Record, frozen=True):
    """The samples that can be trained on, and the records that cannot."""

    samples: tuple[Sample, ...]
    dropped: dict[str, int]
    """Dropped records by reason, the most frequent reason first."""
    dropped_ids: tuple[tuple[str, str], ...]
    """(record id, reason), in the records' order."""


def prepare(
    records: Iterable[InstructionRecord],
    tokenizer: PreTrainedTokenizerBase,
    *,
    template: str | None,
    picture_tokens: PictureCounter,
    max_tokens: int,
    picture_folder: Path | None,
) -> Prepared:
    """Tokenise records and keep those that can be trained on.

    `template` is the text of a Jinja chat template (None: the tokenizer's own), `picture_tokens`
    says how many tokens a picture of a width and height takes, `max_tokens` is the longest sample
    with its pictures expanded. Every picture is decoded once, in `picture_folder`; None leaves
    pictures unchecked, which a counter that needs their sizes does not allow.

    Raises LaternaError when no record remains, with the reasons and their counts, and ValueError
    where sizes are needed and there is no folder.
    """
    samples: list[Sample] = []
    dropped: list[tuple[str, str]] = []
    example = ""
    faults = _PictureFaults(picture_folder)
    for record in records:
        try:
            sample = _checked_sample(record, tokenizer, template)
            sample = _counted(sample, picture_tokens, picture_folder)
            _check_length(sample, max_tokens)
            faults.check(record)
        except UnusableError as error:
            dropped.append((record.id, error.reason))
            example = example or str(error)
        else:
            samples.append(sample)
    counts = dict(Counter(reason for _, reason in dropped).most_common())
    if not samples:
        listed = "; ".join(f"{count} × {reason}" for reason, count in counts.items())
        raise LaternaError(
            f"no record can be trained on ({listed or 'there were none'})"
            + (f"; the first: {example}" if example else "")
        )
    return Prepared(samples=tuple(samples), dropped=counts, dropped_ids=tuple(dropped))


def _checked_sample(
    record: InstructionRecord, tokenizer: PreTrainedTokenizerBase, template: str | None
) -> Sample:
    rendered = render_record(record, tokenizer, template)
    sample = tokenise_rendered(rendered, record, tokenizer)
    # The first token has nothing before it to be predicted from.
    if not any(sample.targets[1:]):
        raise UnusableError("no target tokens", f"record {record.id}: no token of it is learned")
    if not check_targets(sample, rendered, record, tokenizer):
        raise UnusableError(
            "targets do not decode to the answer",
            f"record {record.id}: the learned tokens do not decode to the answers; the tokenizer "
            "cannot write them, or joins them to the words of the template",
        )
    return sample


def _counted(sample: Sample, counter: PictureCounter, folder: Path | None) -> Sample:
    try:
        return count_pictures(sample, counter, folder)
    except LaternaError as error:
        raise UnusableError(_reason(error), f"record {sample.id}: {error}") from error


def _check_length(sample: Sample, max_tokens: int) -> None:
    if sample.length > max_tokens:
        raise UnusableError(
            f"longer than {max_tokens} tokens", f"record {sample.id}: {sample.length} tokens long"
        )


class _PictureFaults:
    """Checks pictures, each once however many records share it."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.known: dict[str, tuple[str, str] | None] = {}

    def check(self, record: InstructionRecord) -> None:
        """Raise UnusableError when a picture of the record is missing or cannot be read."""
        if self.folder is None:
            return
        for name in record.pictures:
            if name not in self.known:
                self.known[name] = _picture_fault(self.folder / name)
            fault = self.known[name]
            if fault is not None:
                reason, message = fault
                raise UnusableError(reason, f"record {record.id}: {message}")


def _picture_fault(path: Path) -> tuple[str, str] | None:
    """Return (reason, message) for a picture that cannot be used, None for one that can."""
    try:
        check_picture(path)
    except LaternaError as error:
        return _reason(error), str(error)
    return None


def _reason(error: LaternaError) -> str:
    missing = isinstance(error, MissingPictureError)
    return "picture missing" if missing else "picture cannot be read"
