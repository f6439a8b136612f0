"""Export to llama.cpp: `model.gguf` (the language model) and `mmproj.gguf` (encoder, connector).

llama.cpp, llama-cpp-python, Ollama, LM Studio and koboldcpp read the pair.
"""

from __future__ import annotations

from pathlib import Path

from laterna.model.exporters.gguf_picture import write_picture_half
from laterna.model.exporters.gguf_text import write_text_half
from laterna.model.exporters.parts import precision_of
from laterna.model.vlm import VisionLanguageModel

TEXT_FILE = "model.gguf"
PICTURE_FILE = "mmproj.gguf"


def export_gguf(assistant: VisionLanguageModel, folder: Path, precision: str = "") -> None:
    """Write the pair of files to a new folder; precision `f16` (default) or `f32`.

    In `f16` the matrices are halved; norms and biases stay `f32`. Raises LaternaError for what
    llama.cpp's LLaVA cannot hold.
    """
    dtype = precision_of(precision, ("f16", "f32"))
    folder.mkdir()
    write_picture_half(assistant, folder / PICTURE_FILE, dtype)
    write_text_half(assistant, folder / TEXT_FILE, dtype)
