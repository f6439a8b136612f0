"""`laterna export`: checkpoints become files that other engines read."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from laterna.commands.base import Command


class Export(Command, frozen=True, kw_only=True):
    """Write a checkpoint for another engine, adapters merged.

    `hf` is a LlavaForConditionalGeneration with its processor (transformers, vLLM, SGLang);
    `gguf` is llama.cpp's pair, model.gguf and mmproj.gguf (llama.cpp, Ollama, LM Studio).
    """

    checkpoint: Positional[str]
    """Checkpoint folder, or anything else that `laterna import` takes."""
    folder: Positional[Path]
    """Folder to write."""
    to: Literal["hf", "gguf"]
    """The format."""
    precision: Literal["f32", "f16", "bf16"] | None = None
    """Of the weights; left out: f32 for hf, f16 for gguf, which has no bf16 here."""

    def run(self) -> str:
        """Call `laterna.model.exporters`."""
        from laterna.inference.assistant import load

        assistant = load(self.checkpoint, device="cpu")
        folder = assistant.export(self.folder, self.to, self.precision or "")
        return f"made {folder} of {self.checkpoint}: {', '.join(_files(folder))}"


def _files(folder: Path) -> list[str]:
    return [
        f"{path.name} ({path.stat().st_size / 1e6:,.1f} MB)"
        for path in sorted(folder.iterdir())
        if path.suffix in (".safetensors", ".gguf")
    ]
