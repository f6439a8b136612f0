"""`laterna lab`: experiments on a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from laterna.choices import KeysOf
from laterna.commands.base import Command, Reads, Where
from laterna.errors import LaternaError
from laterna.recipe import Number, Seed


class Lab(Command, frozen=True, kw_only=True):
    """Run an experiment on an assistant, or list the experiments."""

    experiment: Positional[Annotated[str, KeysOf("laterna.lab:EXPERIMENTS")] | None] = None
    """What to find out. Default: only list what there is to find out, and in how many minutes."""
    model: Positional[str] = ""
    """A Laterna checkpoint, a llava-hf or original LLaVA folder, or a hub id of one."""
    data: Path | None = None
    """Dataset folder of the tabletop world."""
    limit: Number = 0
    """Images at most; 0: all."""
    seed: Seed = 0
    """Seed of the choice of images, of the questions and of the probe."""
    where: Annotated[Where, arg(name="")] = Where()

    def reads(self) -> Iterator[Reads]:
        """Name the checkpoint and the dataset."""
        if self.experiment is None:
            return
        if not self.model or self.data is None:
            raise LaternaError(
                f"laterna lab {self.experiment}: name a model and its data, as in "
                f"`laterna lab {self.experiment} CHECKPOINT --data FOLDER`"
            )
        yield from (Reads(Path(self.model), kind="maybe"), Reads(self.data, kind="folder"))

    def run(self) -> str:
        """Run an experiment of `laterna.lab` and show its table, or show which there are."""
        from rich.console import Console
        from rich.table import Table

        from laterna.lab import EXPERIMENTS, Subject

        if self.experiment is None or self.data is None:
            table = Table("experiment", "question", "minutes", "needs")
            for name, one in EXPERIMENTS.items():
                table.add_row(name, one.question, f"{one.minutes:g}", one.needs)
            Console().print(table)
            return ""
        assistant = self.where.load(self.model)
        subject = Subject(assistant, self.data, self.limit, self.seed)
        found = EXPERIMENTS[self.experiment].run(subject)
        Console().print(found.table)
        return f"{found.line} of {self.model} on {self.data}"
