"""Export to llama.cpp: `model.gguf` (the language model) and `mmproj.gguf` (encoder, connector).

llama.cpp, llama-cpp-python, Ollama, LM Studio and koboldcpp read the pair.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from laterna.errors import LaternaError
from laterna.model.exporters.gguf_picture import write_picture_half
from laterna.model.exporters.gguf_text import write_text_half
from laterna.model.exporters.parts import precision_of
from laterna.model.vlm import VisionLanguageModel

TEXT_FILE = "model.gguf"
PICTURE_FILE = "mmproj.gguf"


def insist_gguf() -> None:
    """Raise LaternaError where the package that writes GGUF is missing."""
    if find_spec("gguf") is None:
        raise LaternaError(
            "writing GGUF needs the package `gguf`; run `pip install 'laterna[gguf]'`"
        )


def export_gguf(assistant: VisionLanguageModel, folder: Path, precision: str = "") -> None:
    """Write the pair of files to a new folder; precision `f16` (default) or `f32`.

    In `f16` the matrices are halved; norms and biases stay `f32`. Raises LaternaError when the
    package `gguf` is missing, and for what llama.cpp's LLaVA cannot hold.
    """
    dtype = precision_of(precision, ("f16", "f32"))
    insist_gguf()
    folder.mkdir()
    write_picture_half(assistant, folder / PICTURE_FILE, dtype)
    write_text_half(assistant, folder / TEXT_FILE, dtype)
