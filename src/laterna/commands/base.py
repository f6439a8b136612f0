"""What every subcommand is, what it reads and writes, and what several of them print."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import msgspec

from laterna.bounds import require_bounds
from laterna.choices import KeysOf
from laterna.errors import LaternaError
from laterna.files import (
    Made,
    recover,
    require_growing,
    require_replaceable,
    require_same_or_asked,
    resolved,
)
from laterna.recipe import Recipe, StageName

if TYPE_CHECKING:
    from laterna.inference.assistant import Assistant

RUNS = Path("runs")
"""Where commands write unless told otherwise."""
STAGES: dict[str, tuple[StageName, ...]] = {
    "align": ("align",),
    "instruct": ("instruct",),
    "both": ("align", "instruct"),
}
"""`--stage` to its stages, in order."""
StageChoice = Annotated[str, KeysOf("laterna.commands.base:STAGES")]
FormatName = Annotated[str, KeysOf("laterna.scenes.readers:READERS", also=("auto",))]
"""Format of annotations."""
LISTED = 20
"""Left-out records that are printed; the closing line counts all by reason."""


class Reads(NamedTuple):
    """A file or folder that a command reads."""

    path: Path
    whole: bool = True
    """Whether all files in it are read; else only those that records name, so that it may be the
    current folder."""
    kind: Literal["file", "folder", "either", "maybe"] = "either"
    """What it must be; `maybe`: a path or another name, such as a hub id."""


class Writes(NamedTuple):
    """A file or folder that a command writes."""

    path: Path
    made: Made | None = None
    """What the folder will be; None for a file, and for a folder that only grows."""
    grows: bool = False
    """Whether it is a folder that keeps what is in it."""
    overwrite: bool = False


FLAT = ("endpoint.", "spending.", "judge.", "shots.", "settings.", "where.", "decoding.")
"""Groups of arguments that the command line shows without their name."""


class Where(msgspec.Struct, frozen=True, kw_only=True):
    """Where a model runs, and in which precision."""

    device: str | None = None
    """`cpu`, `cuda` or another torch device. Default: an accelerator if there is one, else the
    CPU."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Precision of weights and activations. Default: bfloat16 on an accelerator, float32 on a
    CPU."""

    def load(self, name: str) -> Assistant:
        """Load a checkpoint, a llava-hf or original LLaVA folder, or a hub id of either."""
        from laterna.inference.assistant import load

        return load(name, device=self.device, dtype=self.dtype)


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all commands: the arguments of one step."""

    def reads(self) -> Iterable[Reads]:
        """Yield what is read, as far as it is known before the work.

        Raises LaternaError where it is known at once that the command cannot succeed.
        """
        return ()

    def writes(self) -> Iterable[Writes]:
        """Yield all that is written."""
        return ()

    def run(self) -> str:
        """Do the step and return the closing line, empty where nothing was made."""
        raise NotImplementedError


def made_of(source: str, **settings: object) -> dict[str, str]:
    """Return `Made.of`: a folder, file or hub id as it is now, and settings."""
    path = Path(source)
    files = (*path.glob("*"), *path.glob("*/*")) if path.is_dir() else (path,)
    known = sorted((os.path.relpath(one, path), one.stat()) for one in files if one.is_file())
    seen = [(name, found.st_size, found.st_mtime_ns) for name, found in known]
    of = {"source": path.name if seen else source}
    if seen:
        of["its files"] = sha256(repr(seen).encode()).hexdigest()[:16]
    of |= {name: str(value) for name, value in settings.items()}
    return {name: text.encode(errors="backslashreplace").decode() for name, text in of.items()}


def recipe_reads(recipe: Recipe, stages: Sequence[StageName]) -> Iterator[Reads]:
    """Yield what training a recipe's stages reads from this machine."""
    for model in (recipe.vision.source, recipe.language.source, recipe.connector.source):
        if model:
            yield Reads(Path(model), kind="maybe")
    for stage in stages:
        for source in recipe.stage(stage).mixture():
            yield Reads(Path(source.data), kind="maybe")
            if source.images:
                yield Reads(Path(source.images), whole=False, kind="maybe")


def require_command_bounds(command: Command) -> None:
    """Raise LaternaError, naming the option, for a number out of its type's bounds, and for a text
    with a NUL character.
    """

    def option(place: str) -> str:
        for group in FLAT:
            place = place.removeprefix(group)
        return f"--{place.replace('_', '-')}"

    require_bounds(command, option)
    for name in command.__struct_fields__:
        value = getattr(command, name)
        if isinstance(value, str | Path) and "\0" in str(value):
            raise LaternaError(f"{option(name)} {str(value)!r}: remove the NUL character")


def require_places(command: Command) -> None:
    """Raise LaternaError where a command would overwrite what it reads or what is not its own, or
    cannot write; restore first what a killed process had moved away.
    """
    read, written = list(command.reads()), list(command.writes())
    for path in (*(one.path for one in read), *(one.path for one in written)):
        recover(path)
    for one in read:
        _require_there(one)
    for number, out in enumerate(written):
        _require_apart(out, read)
        if resolved(out.path) in (resolved(other.path) for other in written[:number]):
            raise LaternaError(f"{out.path}: two outputs share this path; give each its own")
        if out.grows:
            require_growing(out.path)
            continue
        require_replaceable(out.path, out.made)
        _require_no_annotations(out)
        if out.made is not None and out.made.of:
            require_same_or_asked(out.path, out.made, overwrite=out.overwrite)


def _require_there(one: Reads) -> None:
    path = one.path
    if not path.exists():
        if one.kind != "maybe":
            what = {"either": "file or folder"}.get(one.kind, one.kind)
            raise LaternaError(f"{path}: no such {what}")
    elif path.is_dir():
        if one.kind == "file":
            raise LaternaError(f"{path} is a folder; give a file")
    elif not path.is_file():
        raise LaternaError(f"{path} is not a regular file; give one that can be read twice")
    elif one.kind == "folder":
        raise LaternaError(f"{path} is a file; give a folder")


def _require_apart(out: Writes, read: Sequence[Reads]) -> None:
    place = resolved(out.path)
    for one in read:
        if not one.path.exists():
            continue
        source = resolved(one.path)
        if place == source:
            raise LaternaError(f"{out.path} is an input, which would be lost; give another path")
        works_in = not one.whole and Path.cwd().is_relative_to(source)
        if place.is_relative_to(source) and not works_in:
            raise LaternaError(
                f"{out.path} lies inside the input {one.path}; give a path outside it"
            )
        if not out.grows and source.is_relative_to(place):
            raise LaternaError(f"{out.path} contains the input {one.path}; give another path")


def _require_no_annotations(out: Writes) -> None:
    """Raise LaternaError where a file of annotations would be replaced: one next to another, as
    captions are, is read with it without being named.
    """
    from laterna.scenes.readers import READERS

    if out.made is None and out.path.is_file():
        for reader in READERS.values():
            if reader.looks_like(out.path):
                raise LaternaError(
                    f"{out.path}: holds annotations ({reader.form}), which would be lost; name "
                    "another file"
                )


def show_some(what: str, messages: Sequence[str]) -> None:
    """Print the first messages one a line, and how many more there are."""
    for message in messages[:LISTED]:
        print(f"{what}: {message}")
    if len(messages) > LISTED:
        print(f"{what}: {len(messages) - LISTED} more")
