"""Assistants for other engines: Hugging Face's LLaVA, and llama.cpp's pair of GGUF files.

A format is one file in this folder and one line in `EXPORTS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from laterna.errors import LaternaError
from laterna.files import Made, write_atomically
from laterna.model.exporters.gguf import export_gguf, insist_gguf
from laterna.model.exporters.hf import export_hf
from laterna.model.exporters.parts import precision_of
from laterna.model.vlm import VisionLanguageModel

EXPORTS: dict[str, Callable[[VisionLanguageModel, Path, str], None]] = {
    "hf": export_hf,
    "gguf": export_gguf,
}
"""By format: writes an assistant into a new folder in a precision (empty: the usual one)."""


PRECISIONS = {"hf": ("f32", "f16", "bf16"), "gguf": ("f16", "f32")}
"""Of the weights, by format; the first is the usual one."""


def insist_possible(to: str, precision: str) -> None:
    """Raise LaternaError for what is known before any model is read: another format, a precision
    that it does not have, a package that is not there.
    """
    if to not in EXPORTS:
        raise LaternaError(f"{to!r}: no such export format; use one of {', '.join(EXPORTS)}")
    precision_of(precision, PRECISIONS[to])
    if to == "gguf":
        insist_gguf()


def export_made(to: str, of: Mapping[str, str] | None = None) -> Made:
    """Return what an export's folder says of itself."""
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

    Adapters are merged into what is written; the assistant itself is not changed. An export that
    stands there is replaced with `overwrite`, or where both are made `of` the same. Raises
    LaternaError for an unknown format, for an assistant that the format cannot express, and where
    `write_atomically` does.
    """
    insist_possible(to, precision)
    made = export_made(to, of)
    with write_atomically(folder, made, overwrite=overwrite) as aside:
        EXPORTS[to](assistant, aside, precision)
    return folder
