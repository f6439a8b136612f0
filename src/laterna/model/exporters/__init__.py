"""Assistants for other engines: Hugging Face's LLaVA, and llama.cpp's pair of GGUF files.

A format is one file in this folder and one line in `EXPORTS`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from laterna.errors import LaternaError
from laterna.model.exporters.gguf import export_gguf
from laterna.model.exporters.hf import export_hf
from laterna.model.vlm import VisionLanguageModel

EXPORTS: dict[str, Callable[[VisionLanguageModel, Path, str], Path]] = {
    "hf": export_hf,
    "gguf": export_gguf,
}
"""By format: writes an assistant to a folder in a precision (empty: the format's usual one)."""


def export(assistant: VisionLanguageModel, folder: Path, to: str, precision: str = "") -> Path:
    """Write an assistant for another engine, whole or not at all; return the folder.

    Adapters are merged into what is written; the assistant itself is not changed. Raises
    LaternaError for an unknown format, and for an assistant that the format cannot express.
    """
    if to not in EXPORTS:
        raise LaternaError(f"{to!r}: no such export format; use one of {', '.join(EXPORTS)}")
    return EXPORTS[to](assistant, folder, precision)
