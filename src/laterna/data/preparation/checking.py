"""Rows become checked samples; what cannot be used goes, by name and for a reason."""

from __future__ import annotations

import re
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from laterna.data.chat import UnusableError
from laterna.data.fingerprints import Stamp, sha256_of
from laterna.data.images.files import (
    ImageFiles,
    ImageFolder,
    OutsideImageError,
    SeveralImages,
    open_images,
)
from laterna.data.images.opening import MissingImageError, check_image, image_size
from laterna.data.preparation.tokens import SampleTokenizer, Tokens
from laterna.data.sources import FORMS
from laterna.data.sources.rows import (
    IMAGE_DIGITS,
    Chunk,
    Unreadable,
    read_chunk,
    shortened,
)
from laterna.data.template import is_plain
from laterna.errors import LaternaError
from laterna.files import write_atomically
from laterna.records import InstructionRecord, Record

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

UNCHECKED = (0, 0)
"""Stands for the width and height of an image that was not looked at."""
EMBEDDED = "images"
"""Folder of a prepared set: images that stood in its rows."""
LISTINGS = "listings"
"""Folder beside the prepared sets: what is in the tar files of their images."""
_DIGEST = re.compile(f"[0-9a-f]{{{IMAGE_DIGITS}}}")
KNOWN_IMAGES = 1 << 16
"""Images whose sizes are remembered, for the records that share them."""

Size = tuple[int, int]


class Dropped(Record, frozen=True):
    """A record, or a row that makes none, which cannot be trained on."""

    id: str
    reason: str
    message: str
    image: str = ""
    """The image that it was dropped for; empty: for another reason."""
    stamp: Stamp | None = None
    """Of that image's file; None where there was none."""


class Job(Record, frozen=True):
    """What is done to every row of a source; all that decides what becomes of it."""

    form: str
    """A key of `FORMS`."""
    template: str
    """Text of the Jinja chat template."""
    prepared: str
    """Folder of the set that is made; images which stand in the rows are written there."""
    images: str = ""
    """Where the other images are; empty: they are not looked at."""
    allow_outside: bool = False
    """Whether they may lie outside that folder."""


class Checked(Record, frozen=True):
    """A record that can be trained on, and the sizes of its images as they are seen."""

    tokens: Tokens
    sizes: tuple[Size, ...]


class Checker:
    """Does a job, chunk by chunk."""

    def __init__(self, job: Job, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raise LaternaError where the images cannot be opened."""
        self.job = job
        self.tokenizer = SampleTokenizer(tokenizer, job.template)
        self.images = KeptImages(Path(job.prepared), job.images, job.allow_outside)
        self._look = lru_cache(KNOWN_IMAGES)(self._look_once)

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
            if (fault := not_one_caption(row.record, self.job.template)) is not None:
                dropped.append(_dropped(row.record, fault))
                continue
            records.append(row.record)
        kept: list[Checked] = []
        outcomes = self.tokenizer.tokenize(records)
        for record, outcome in zip(records, outcomes, strict=True):
            if isinstance(outcome, UnusableError):
                dropped.append(_dropped(record, outcome))
                continue
            found = self._with_sizes(outcome)
            if isinstance(found, Checked):
                kept.append(found)
            else:
                dropped.append(found)
        return kept, dropped

    def _keep(self, name: str, content: bytes) -> None:
        path = self.images.embedded.folder / name
        if not path.is_file():
            with write_atomically(path) as aside:
                aside.write_bytes(content)

    def _with_sizes(self, tokens: Tokens) -> Checked | Dropped:
        sizes = []
        for name in tokens.images:
            found = self._look(name)
            if isinstance(found, UnusableError):
                return Dropped(
                    id=tokens.id,
                    reason=found.reason,
                    message=shortened(f"record {tokens.id}: {found}"),
                    image=name,
                    stamp=self.images.stamp_now(name),
                )
            sizes.append(found)
        return Checked(tokens=tokens, sizes=tuple(sizes))

    def _look_once(self, name: str) -> Size | UnusableError:
        """Read an image to its end and return its size, or what is wrong with it."""
        if not self.job.images and not self.images.holds(name):
            return UNCHECKED
        try:
            source = self.images.find(name)
            if self.images.holds(name) and isinstance(source, Path):
                # its copy says nothing to whoever wrote the row
                source, name = source.read_bytes(), "the image in this row"
            check_image(source, name)
            return image_size(source, name)
        except MissingImageError as error:
            return UnusableError("image missing", str(error))
        except OutsideImageError as error:
            return UnusableError("image outside the image folder", str(error))
        except LaternaError as error:
            return UnusableError("image cannot be read", str(error))


_is_plain = cache(is_plain)


def not_one_caption(record: InstructionRecord, template: str) -> UnusableError | None:
    """Say why the template `plain`, which drops the user's words, cannot teach a record: as LLaVA
    asserts, it is for one image and its caption. None for other templates.
    """
    roles = [turn.role for turn in record.turns]
    if not _is_plain(template) or (len(record.images) == 1 and roles == ["user", "assistant"]):
        return None
    return UnusableError(
        "not one image and one answer, as the template plain needs",
        f"record {record.id}: plain shows one image and one answer, and nothing that is asked; "
        f"this has {len(record.images)} images, and turns of {', '.join(roles[:6])}",
    )


def _dropped(record: InstructionRecord, fault: UnusableError) -> Dropped:
    return Dropped(id=record.id, reason=fault.reason, message=shortened(str(fault)))


class EmbeddedImages(ImageFolder):
    """Images that stood in the rows of a prepared set: the name of each is its digest."""

    def find(self, name: str) -> Path:
        """Return an image's file. Raises LaternaError for one that is not as it was kept."""
        kept = self.folder / name
        if not sha256_of(kept).startswith(name):
            raise LaternaError(
                f"{kept}: its checksum differs; remove {self.folder.parent} to have the "
                "records and their images prepared again"
            )
        return kept

    def identity(self, name: str) -> str:
        """Return the name, for that is a digest of the image's bytes."""
        return name


class KeptImages(SeveralImages):
    """The images of a source: those that stood in its rows, and those of its place."""

    def __init__(self, prepared: Path, where: str, allow_outside: bool = False) -> None:
        """Open what a `images` setting names, if anything, beside those in a prepared set.

        Raises LaternaError as `open_images` does.
        """
        self.embedded = EmbeddedImages(prepared / EMBEDDED)
        listings = prepared.parent / LISTINGS
        self.images = open_images(where, listings, allow_outside) if where else None

    @property
    def where(self) -> str:
        """Both places; the second alone where no image stood in a row, so that other records about
        the same images, as those of another stage, are known to show the same.
        """
        outside = self.images.where if self.images else ""
        held = self.embedded.folder.is_dir() and any(self.embedded.folder.iterdir())
        return f"{self.embedded.where}\n{outside}" if held or not outside else outside

    def holds(self, name: str) -> bool:
        """Say whether an image of this name stood in a row."""
        return bool(_DIGEST.fullmatch(name)) and (self.embedded.folder / name).is_file()

    def place_of(self, name: str) -> tuple[ImageFiles, str]:
        """Return where an image is. Raises MissingImageError where there is no such place."""
        if self.holds(name):
            return self.embedded, name
        if self.images is None:
            raise MissingImageError("no `images` say where the images are")
        return self.images, name

    def stamp_now(self, name: str) -> Stamp | None:
        """Return the stamp of the file that holds an image; None where there is none."""
        try:
            return self.stamp(name)
        except (OSError, LaternaError):
            return None

    def identity(self, name: str) -> str:
        """Return what is equal for names of one image, whether or not it is anywhere."""
        if self.images is None and not self.holds(name):
            return str(self.embedded.folder / name)
        return super().identity(name)
