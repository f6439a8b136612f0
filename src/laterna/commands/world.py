"""`laterna world`: the embedded tabletop world as a dataset."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec
from tyro.conf import Positional

from laterna.commands.base import Command, Writes
from laterna.recipe import Number, Seed


class World(Command, frozen=True, kw_only=True):
    """Draw the embedded tabletop world as a COCO-format dataset."""

    folder: Positional[Path]
    """Folder to write: images/, instances.json, captions.json, truth.jsonl."""
    pictures: Annotated[int, msgspec.Meta(ge=1, le=10_000_000)] = 2000
    """Number of pictures."""
    seed: Seed = 0
    """Seed of the world; the same seed draws the same pictures."""
    start: Number = 0
    """Number of the first picture; ranges of one seed that do not overlap share no picture."""

    overwrite: bool = False
    """Replace a world of other making that stands there."""

    def writes(self) -> Iterator[Writes]:
        """Name the folder."""
        from laterna.world.dataset import world_made

        made = world_made(self.pictures, self.seed, self.start)
        yield Writes(self.folder, made, overwrite=self.overwrite)

    def run(self) -> str:
        """Call `laterna.world.dataset`."""
        from laterna.world.dataset import write_world

        summary = write_world(
            self.folder,
            pictures=self.pictures,
            seed=self.seed,
            start=self.start,
            overwrite=self.overwrite,
        )
        return summary.line()
