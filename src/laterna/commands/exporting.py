"""`laterna export`: checkpoints become files that other engines read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from laterna.choices import KeysOf
from laterna.commands.base import Command, Reads, Writes, made_of


class Export(Command, frozen=True, kw_only=True):
    """Write a checkpoint for another engine, adapters merged.

    `hf` is a LlavaForConditionalGeneration with its processor (transformers, vLLM, SGLang);
    `gguf` is llama.cpp's pair, model.gguf and mmproj.gguf (llama.cpp, Ollama, LM Studio).
    """

    checkpoint: Positional[str]
    """Checkpoint folder, or anything else that `laterna import` takes."""
    folder: Positional[Path]
    """Folder to write."""
    to: Annotated[str, KeysOf("laterna.model.exporters:EXPORTS")]
    """The format."""
    precision: str | None = None
    """Of the weights: `f32`, `f16` or `bf16`. Default: f32 for hf, f16 for gguf, which has no bf16
    here."""

    overwrite: bool = False
    """Replace an export of other making that stands there."""

    def reads(self) -> Iterator[Reads]:
        """Name the checkpoint."""
        from laterna.model.exporters import insist_possible

        insist_possible(self.to, self.precision or "")
        yield Reads(Path(self.checkpoint), kind="maybe")

    def writes(self) -> Iterator[Writes]:
        """Name the folder."""
        from laterna.model.exporters import export_made

        yield Writes(self.folder, export_made(self.to, self._of()), overwrite=self.overwrite)

    def _of(self) -> dict[str, str]:
        return made_of(self.checkpoint, precision=self.precision or "")

    def run(self) -> str:
        """Call `laterna.model.exporters`."""
        from laterna.inference.assistant import load

        folder = load(self.checkpoint, device="cpu").export(
            self.folder, self.to, self.precision or "", overwrite=self.overwrite, of=self._of()
        )
        return f"made {folder} of {self.checkpoint}: {', '.join(_files(folder))}"


def _files(folder: Path) -> list[str]:
    return [
        f"{path.name} ({path.stat().st_size / 1e6:,.1f} MB)"
        for path in sorted(folder.iterdir())
        if path.suffix in (".safetensors", ".gguf")
    ]
