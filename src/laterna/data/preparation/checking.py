"""Rows become checked samples; what cannot be used goes, by name and for a reason."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from laterna.data.chat import UnusableError
from laterna.data.digests import Stamp, stamp_of
from laterna.data.masking import with_image_first
from laterna.data.picture_files import open_pictures
from laterna.data.pictures import MissingPictureError, check_picture, picture_size
from laterna.data.preparation.tokens import Tokeniser, Tokens
from laterna.data.sources import FORMS
from laterna.data.sources.rows import Chunk, Unreadable, read_chunk
from laterna.errors import LaternaError
from laterna.files import write_atomically
from laterna.records import InstructionRecord, Record

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

UNCHECKED = (0, 0)
"""Stands for the width and height of a picture that was not looked at."""
EMBEDDED = "pictures"
"""Folder of a prepared set: pictures that stood in its rows."""
LISTINGS = "listings"
"""Folder beside the prepared sets: what is in the tar files of their pictures."""
KNOWN_PICTURES = 1 << 16
"""Pictures whose sizes are remembered, for the records that share them."""

Size = tuple[int, int]


class Dropped(Record, frozen=True):
    """A record, or a row that makes none, which cannot be trained on."""

    id: str
    reason: str
    message: str
    picture: str = ""
    """The picture that it was dropped for; empty: for another reason."""
    stamp: Stamp | None = None
    """Of that picture's file; None where there was none."""


class Job(Record, frozen=True):
    """What is done to every row of a source; all that decides what becomes of it."""

    form: str
    """A key of `FORMS`."""
    template: str
    """Text of the Jinja chat template."""
    prepared: str
    """Folder of the set that is made; pictures which stand in the rows are written there."""
    image_first: bool = False
    """Whether the one mark of a turn goes before its words."""
    pictures: str = ""
    """Where the other pictures are; empty: they are not looked at."""


class Checked(Record, frozen=True):
    """A record that can be trained on, and the sizes of its pictures as they are seen."""

    tokens: Tokens
    sizes: tuple[Size, ...]


class Checker:
    """Does a job, chunk by chunk."""

    def __init__(self, job: Job, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raise LaternaError where the pictures cannot be opened."""
        self.job = job
        self.tokeniser = Tokeniser(tokenizer, job.template)
        self.pictures = KeptPictures(Path(job.prepared), job.pictures)
        self._look = lru_cache(KNOWN_PICTURES)(self._look_once)

    def check(self, chunk: Chunk) -> tuple[list[Checked], list[Dropped]]:
        """Return the samples of a chunk's rows, in order, and what became of the other rows.

        Raises LaternaError for what is wrong with every row, such as a template that is no Jinja.
        """
        records: list[InstructionRecord] = []
        dropped: list[Dropped] = []
        for row in read_chunk(chunk, FORMS[self.job.form]):
            if isinstance(row, Unreadable):
                dropped.append(Dropped(id=row.id, reason=row.reason, message=row.message))
                continue
            for name, content in row.embedded.items():
                self._keep(name, content)
            records.append(with_image_first(row.record) if self.job.image_first else row.record)
        kept: list[Checked] = []
        outcomes = self.tokeniser.tokenise(records)
        for record, outcome in zip(records, outcomes, strict=True):
            if isinstance(outcome, UnusableError):
                fault = Dropped(id=record.id, reason=outcome.reason, message=str(outcome))
                dropped.append(fault)
                continue
            found = self._with_sizes(outcome)
            if isinstance(found, Checked):
                kept.append(found)
            else:
                dropped.append(found)
        return kept, dropped

    def _keep(self, name: str, content: bytes) -> None:
        path = self.pictures.embedded / name
        if not path.is_file():
            with write_atomically(path) as aside:
                aside.write_bytes(content)

    def _with_sizes(self, tokens: Tokens) -> Checked | Dropped:
        sizes = []
        for name in tokens.pictures:
            found = self._look(name)
            if isinstance(found, UnusableError):
                return Dropped(
                    id=tokens.id,
                    reason=found.reason,
                    message=f"record {tokens.id}: {found}",
                    picture=name,
                    stamp=self.pictures.stamp_now(name),
                )
            sizes.append(found)
        return Checked(tokens=tokens, sizes=tuple(sizes))

    def _look_once(self, name: str) -> Size | UnusableError:
        """Read a picture to its end and return its size, or what is wrong with it."""
        if not self.job.pictures and not (self.pictures.embedded / name).is_file():
            return UNCHECKED
        try:
            source = self.pictures.find(name)
            check_picture(source, name)
            return picture_size(source, name)
        except MissingPictureError as error:
            return UnusableError("picture missing", str(error))
        except LaternaError as error:
            return UnusableError("picture cannot be read", str(error))


class KeptPictures:
    """The pictures of a source: those that stood in its rows, and those of its place."""

    def __init__(self, prepared: Path, where: str) -> None:
        """Open what a `pictures` setting names, if anything, beside those in a prepared set.

        Raises LaternaError as `open_pictures` does.
        """
        self.embedded = prepared / EMBEDDED
        self.pictures = open_pictures(where, prepared.parent / LISTINGS) if where else None

    @property
    def where(self) -> str:
        """Both places."""
        other = self.pictures.where if self.pictures else ""
        return f"{self.embedded.resolve()}\n{other}"

    def find(self, name: str) -> Path | bytes:
        """Return a picture's file or bytes. Raises MissingPictureError where there is none."""
        kept = self.embedded / name
        if kept.is_file() or self.pictures is None:
            return kept
        return self.pictures.find(name)

    def stamp(self, name: str) -> Stamp:
        """Return the stamp of the file that holds a picture. Raises OSError."""
        kept = self.embedded / name
        if self.pictures is None or kept.is_file():
            return stamp_of(kept)
        return self.pictures.stamp(name)

    def stamp_now(self, name: str) -> Stamp | None:
        """Return the same; None where there is no such picture."""
        try:
            return self.stamp(name)
        except (OSError, MissingPictureError):
            return None

    def identity(self, name: str) -> str:
        """Return a picture's name where it stood in a row, for that is a digest of its bytes."""
        kept = self.embedded / name
        if kept.is_file():
            return name
        return str(kept) if self.pictures is None else self.pictures.identity(name)
