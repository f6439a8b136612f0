"""`laterna world` draws the embedded tabletop world; `laterna demo` walks the whole path on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec
from tyro.conf import Positional

from laterna.choices import KeysOf
from laterna.commands.base import RUNS, Command, Writes
from laterna.recipe import Number, Seed


class World(Command, frozen=True, kw_only=True):
    """Draw images of the embedded tabletop world as a COCO-format dataset."""

    folder: Positional[Path]
    """Folder to write: images/, instances.json, captions.json, truth.jsonl, and pairs.json."""
    images: Annotated[int, msgspec.Meta(ge=1, le=10_000_000)] = 2000
    """Number of images."""
    seed: Seed = 0
    """Seed of the world; the same seed draws the same images."""
    start: Number = 0
    """Number of the first image; ranges of one seed that do not overlap share no image."""
    pairs: Number = 0
    """Number of records about two images at once, written to pairs.json."""
    overwrite: bool = False
    """Replace a world that was drawn with other settings."""

    def writes(self) -> Iterator[Writes]:
        """Name the folder."""
        from laterna.world.dataset import world_made

        made = world_made(self.images, self.seed, self.start, pairs=self.pairs)
        yield Writes(self.folder, made, overwrite=self.overwrite)

    def run(self) -> str:
        """Call `laterna.world.dataset`."""
        from laterna.world.dataset import write_world

        summary = write_world(
            self.folder,
            images=self.images,
            seed=self.seed,
            start=self.start,
            pairs=self.pairs,
            overwrite=self.overwrite,
        )
        return summary.line()


class Demo(Command, frozen=True, kw_only=True):
    """Run the whole path on the embedded world: draw, synthesize, train, evaluate, report."""

    out: Path = RUNS / "demo"
    """Folder for everything that the demo makes. A second run resumes after the last finished
    step."""
    seed: Seed = 0
    """Random seed of the world, the synthesis and the training."""
    fusion: Annotated[str, KeysOf("laterna.demo:RECIPES")] = "prefix"
    """How images meet the language model: as tokens in its row (LLaVA), or through gated
    cross-attention (Flamingo)."""
    quick: bool = False
    """Use a smaller world and shorter stages. Shows that the path works, not how well."""

    def writes(self) -> Iterator[Writes]:
        """Name the folder, which is gone on with."""
        yield Writes(self.out, grows=True)

    def run(self) -> str:
        """Call `laterna.demo`."""
        from laterna.demo import run_demo

        return f"made the demo's report: {run_demo(self.out, self.seed, self.quick, self.fusion)}"
