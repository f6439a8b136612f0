"""`laterna lab`: experiments on how assistants come about."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec
from tyro.conf import Positional

from laterna.choices import KeysOf
from laterna.commands.base import Command, Reads, Writes

ALL = "all"


class Lab(Command, frozen=True, kw_only=True):
    """Run an experiment: its arms are trained, measured beside a control, and drawn."""

    experiment: Positional[
        Annotated[str, KeysOf("laterna.lab:EXPERIMENTS", also=(ALL,))] | None
    ] = None
    """What to find out, or `all`. Default: list the experiments and how many minutes they take."""
    out: Path | None = None
    """Folder for everything that is made; what is finished there is taken. Default: `runs/lab`,
    with `--quick` `runs/lab-quick`."""
    seeds: Annotated[int, msgspec.Meta(ge=1, le=100)] = 3
    """Number of seeds: each arm is trained anew with each, and intervals are over them."""
    quick: bool = False
    """Use few images and few steps. Shows that the experiment works, and nothing else."""
    recipe: str = "nano"
    """Recipe that the arms change: a shipped one, or a TOML file. Its data is replaced by the
    world's."""

    @property
    def folder(self) -> Path:
        """Where everything is made."""
        return self.out or Path("runs") / ("lab-quick" if self.quick else "lab")

    def reads(self) -> Iterator[Reads]:
        """Name the recipe's file, where it is one."""
        yield Reads(Path(self.recipe), kind="maybe")

    def writes(self) -> Iterator[Writes]:
        """Name the folder, in which every experiment keeps to its own."""
        if self.experiment is not None:
            yield Writes(self.folder, grows=True)

    def run(self) -> str:
        """Run experiments of `laterna.lab`, or show which there are."""
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table

        from laterna.lab import EXPERIMENTS

        console = Console()
        if self.experiment is None:
            table = Table("experiment", "question", "minutes, one seed", "needs")
            for name, one in EXPERIMENTS.items():
                table.add_row(name, one.question, f"{one.minutes:g}", escape(one.needs))
            console.print(table)
            return ""
        from laterna.lab.pages import fitting
        from laterna.lab.run import PAGE, run_experiments
        from laterna.recipe import load_recipe

        names = tuple(EXPERIMENTS) if self.experiment == ALL else (self.experiment,)
        findings = run_experiments(
            names,
            self.folder,
            recipe=load_recipe(self.recipe),
            seeds=self.seeds,
            quick=self.quick,
        )
        for found in findings:
            for shown in found.tables:
                for part in fitting(shown, console.width):
                    title = " · ".join(filter(None, (found.title, part.title)))
                    table = Table(title=escape(title), title_justify="left")
                    for number, column in enumerate(part.columns):
                        table.add_column(
                            escape(column), no_wrap=True, justify="right" if number else "left"
                        )
                    for row in part.rows:
                        table.add_row(*map(escape, row))
                    console.print(table)
            console.print(found.answer, soft_wrap=True, markup=False)
        return f"made {self.folder / PAGE}"
