"""Assistants for other engines: Hugging Face's LLaVA, IDEFICS and BLIP-2, and llama.cpp's GGUF.

A format is one file in this folder and one line in `EXPORTS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from laterna.choices import late
from laterna.errors import LaternaError
from laterna.files import Made, write_atomically

if TYPE_CHECKING:
    from laterna.model.vlm import VisionLanguageModel


class Export(NamedTuple):
    """A format that assistants are written in."""

    write: Callable[[VisionLanguageModel, Path, str], None]
    """Writes an assistant into a new folder, in a precision."""
    precisions: tuple[str, ...]
    """Of the weights, keys of `parts.PRECISIONS`; the first is the default."""
    package: str = ""
    """A package that must be installed; our extra has the same name."""


EXPORTS: dict[str, Export] = {
    "hf": Export(late("laterna.model.exporters.hf:export_hf"), ("f32", "f16", "bf16")),
    "idefics": Export(
        late("laterna.model.exporters.idefics:export_idefics"), ("f32", "f16", "bf16")
    ),
    "blip2": Export(late("laterna.model.exporters.blip2:export_blip2"), ("f32", "f16", "bf16")),
    "gguf": Export(late("laterna.model.exporters.gguf:export_gguf"), ("f16", "f32"), "gguf"),
}


def require_possible(to: str, precision: str) -> None:
    """Raise LaternaError, before any model is read, for an unknown format, a precision that it does
    not have, and a package that is not installed.
    """
    if to not in EXPORTS:
        raise LaternaError(f"{to!r}: no such export format; use one of {', '.join(EXPORTS)}")
    known, package = EXPORTS[to].precisions, EXPORTS[to].package
    if precision and precision not in known:
        raise LaternaError(f"precision {precision!r}: this format has {', '.join(known)}")
    if package and find_spec(package) is None:
        raise LaternaError(
            f"an export to {to} needs the package `{package}`; "
            f"run `pip install 'laterna[{package}]'`"
        )


def export_made(to: str, of: Mapping[str, str] | None = None) -> Made:
    """Return the record that an export's folder keeps of itself."""
    return Made(kind=f"export to {to}", of=of or {})


def export(
    assistant: VisionLanguageModel,
    folder: Path,
    to: str,
    precision: str = "",
    *,
    overwrite: bool = False,
    of: Mapping[str, str] | None = None,
) -> Path:
    """Write an assistant for another engine, whole or not at all; return the folder.

    Adapters are merged into what is written; the assistant itself is not changed. An earlier export
    is replaced with `overwrite`, or where both are made `of` the same. Raises LaternaError as
    `require_possible` and `write_atomically` do, and for an assistant that the format cannot
    express.
    """
    require_possible(to, precision)
    made = export_made(to, of)
    with write_atomically(folder, made, overwrite=overwrite) as aside:
        EXPORTS[to].write(assistant, aside, precision or EXPORTS[to].precisions[0])
    return folder
