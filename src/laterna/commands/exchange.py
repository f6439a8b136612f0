"""`laterna import` and `laterna export`: assistants from elsewhere, and for other engines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from laterna.choices import KeysOf
from laterna.commands.base import Command, Reads, Writes, made_of
from laterna.files import Made
from laterna.recipe import TemplateName


class Import(Command, frozen=True, kw_only=True):
    """Make a checkpoint from a llava-hf folder, an original LLaVA folder, or a hub id of either.

    The JSON inside tells which of them it is. A Laterna checkpoint is accepted too, for `--merge`.
    """

    source: Positional[str]
    """Folder or hub id."""
    folder: Positional[Path]
    """Checkpoint folder to write."""
    language: str = ""
    """Base language model of a projector or of adapters alone; default: as the source says."""
    vision: str = ""
    """Folder or hub id of an original LLaVA's encoder; default: as the source says."""
    template: TemplateName = ""
    """Chat template: `own`, or a shipped one; default: the source's own where it has one,
    `vicuna_v1` where it has none."""
    fit: str = ""
    """How images become square, as in `vision.fit`; default: as the source says. llava-hf's
    folders crop, though LLaVA-1.5 was trained with `pad`."""
    merge: bool = False
    """Merge adapters into the weights."""
    overwrite: bool = False
    """Replace a checkpoint that was made from something else."""

    def reads(self) -> Iterator[Reads]:
        """Name the source, and the models that go with it."""
        named = (self.source, self.language, self.vision)
        yield from (Reads(Path(path), kind="maybe") for path in named if path)

    def writes(self) -> Iterator[Writes]:
        """Name the checkpoint."""
        from laterna.model.checkpoint import KIND

        yield Writes(self.folder, Made(kind=KIND, of=self._of()), overwrite=self.overwrite)

    def _of(self) -> dict[str, str]:
        return made_of(
            self.source,
            language=self.language,
            vision=self.vision,
            template=self.template,
            fit=self.fit,
            merge=self.merge,
        )

    def run(self) -> str:
        """Call `laterna.model.importers`."""
        from laterna.inference.assistant import load
        from laterna.model.importers import merge_adapters

        assistant = load(
            self.source,
            device="cpu",
            language=self.language,
            vision=self.vision,
            template=self.template,
            fit=self.fit,
        )
        if self.merge:
            merge_adapters(assistant.model)
        folder = assistant.save(self.folder, overwrite=self.overwrite, of=self._of())
        inside = ", ".join(sorted(assistant.model.changed))
        return (
            f"made the checkpoint {folder} of {self.source} (inside: {inside}; images: "
            f"{assistant.model.prepare.fit}); talk to it: laterna chat {folder}"
        )


class Export(Command, frozen=True, kw_only=True):
    """Write a checkpoint for another engine. Adapters are merged.

    `hf` is a LlavaForConditionalGeneration with its processor (transformers, vLLM, SGLang);
    `idefics` an IdeficsForVisionText2Text (transformers); `gguf` llama.cpp's pair, model.gguf and
    mmproj.gguf (llama.cpp, Ollama, LM Studio).
    """

    checkpoint: Positional[str]
    """Checkpoint folder, or any other source that `laterna import` reads."""
    folder: Positional[Path]
    """Folder to write."""
    to: Annotated[str, KeysOf("laterna.model.exporters:EXPORTS")]
    """The format."""
    precision: str | None = None
    """Of the weights: `f32`, `f16` or `bf16`. Default: f32, or f16 for gguf, which has no bf16."""
    overwrite: bool = False
    """Replace an export that was made from something else."""

    def reads(self) -> Iterator[Reads]:
        """Name the checkpoint."""
        from laterna.model.exporters import require_possible

        require_possible(self.to, self.precision or "")
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
