"""`laterna demo`: the whole path on the embedded world."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from laterna.commands.base import RUNS, Command, Writes
from laterna.recipe import Seed


class Demo(Command, frozen=True, kw_only=True):
    """Walk the whole path on the embedded world: draw, synthesise, train, evaluate, report."""

    out: Path = RUNS / "demo"
    """Folder for everything the demo makes; run again, it picks up at the last finished step."""
    seed: Seed = 0
    """Seed of the world, of the synthesis and of the training."""
    quick: bool = False
    """A smaller world and shorter stages: shows that the path works, not how well."""

    def writes(self) -> Iterator[Writes]:
        """Name the folder, which is gone on with."""
        yield Writes(self.out, grows=True)

    def run(self) -> str:
        """Call `laterna.demo`."""
        from laterna.demo import run_demo

        return f"made the demo's report: {run_demo(self.out, self.seed, self.quick)}"
