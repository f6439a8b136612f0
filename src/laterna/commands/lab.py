"""`laterna lab`: experiments on a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from laterna.commands.base import Command, Reads, Where
from laterna.recipe import Number, Seed

if TYPE_CHECKING:
    from rich.table import Table

    from laterna.lab.blind_spots import BlindSpot


class Lab(Command, frozen=True, kw_only=True):
    """Run an experiment on an assistant."""

    experiment: Positional[Literal["blind-spots"]]
    """`blind-spots`: how well it answers about what the text proxy leaves out."""
    model: Positional[str]
    """Checkpoint, llava-hf folder, original LLaVA folder, or a hub id of one of these."""
    data: Path
    """Dataset folder of the tabletop world."""
    limit: Number = 0
    """Pictures at most; 0: all."""
    seed: Seed = 0
    """Seed of the choice of pictures, of the questions and of the probe."""
    where: Annotated[Where, arg(name="")] = Where()

    def reads(self) -> Iterator[Reads]:
        """Name the checkpoint and the dataset."""
        yield from (Reads(Path(self.model), kind="maybe"), Reads(self.data, kind="folder"))

    def run(self) -> str:
        """Call `laterna.lab` and show the table."""
        from rich.console import Console

        from laterna.lab.blind_spots import blind_spots

        assistant = self.where.load(self.model)
        spots = blind_spots(assistant, self.data, limit=self.limit, seed=self.seed)
        Console().print(_blind_spot_table(spots))
        return f"measured {len(spots)} blind spots of {self.model} on {self.data}"


def _blind_spot_table(spots: Sequence[BlindSpot]) -> Table:
    """Show what the assistant and a probe of its encoder know of each property."""
    from rich.table import Table

    table = Table("property", "asked", "probe", "probe, labels shuffled", "chance", "questions")
    for spot in spots:
        shares = (spot.asked, spot.probe, spot.shuffled, spot.chance)
        table.add_row(spot.name, *(f"{share:.3f}" for share in shares), str(spot.questions))
    return table
