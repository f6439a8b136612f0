"""What a stage trains: the part table of the recipe, applied to the assistant."""

from __future__ import annotations

from typing import Any, NamedTuple

from rich.table import Table
from torch import nn

from laterna.errors import LaternaError
from laterna.model.assistant import Assistant
from laterna.recipe import Mode, PartName, StageName, StageSettings

TRAINS: dict[Mode, bool] = {"frozen": False, "full": True}
"""Whether a mode trains a part's own weights."""


class PartSummary(NamedTuple):
    """One part in a stage: how many weights train, how many do not, and how fast."""

    part: PartName
    mode: Mode
    lr: float
    trained: int
    frozen: int


class StageSummary(NamedTuple):
    """All parts in a stage."""

    parts: tuple[PartSummary, ...]

    @property
    def trained(self) -> int:
        """Weights that train, over all parts."""
        return sum(part.trained for part in self.parts)


def apply_stage(assistant: Assistant, stage: StageSettings) -> StageSummary:
    """Freeze or free each part as the stage says, and mark the freed ones as changed.

    Raises LaternaError when nothing trains, or a part trains with a learning rate of 0 or less.
    """
    summaries = []
    for name, part in assistant.parts().items():
        settings = stage.part(name)
        trains = TRAINS[settings.mode]
        if trains and settings.lr <= 0:
            raise LaternaError(
                f"{name}.lr = {settings.lr}: a part in mode `{settings.mode}` needs a learning "
                "rate above 0"
            )
        part.requires_grad_(trains)
        part.train(trains)
        count = sum(weight.numel() for weight in part.parameters())
        summaries.append(
            PartSummary(
                part=name,
                mode=settings.mode,
                lr=settings.lr if trains else 0.0,
                trained=count if trains else 0,
                frozen=0 if trains else count,
            )
        )
        if trains:
            assistant.changed.add(name)
    summary = StageSummary(tuple(summaries))
    if not summary.trained:
        raise LaternaError("the stage trains no part; set the mode of at least one to `full`")
    return summary


def parameter_groups(assistant: Assistant, stage: StageSettings) -> list[dict[str, Any]]:
    """Return AdamW's groups: two a trained part, for biases and norms are not decayed."""
    groups: list[dict[str, Any]] = []
    for name, part in assistant.parts().items():
        settings = stage.part(name)
        for matrices, decay in ((True, stage.weight_decay), (False, 0.0)):
            weights = [
                weight
                for weight in _trained(part)
                if (weight.ndim >= 2) is matrices  # a bias or a norm has one dimension
            ]
            if weights:
                groups.append({"params": weights, "lr": settings.lr, "weight_decay": decay})
    return groups


def stage_table(name: StageName, summary: StageSummary) -> Table:
    """Return the stage's parts as a table for people."""
    table = Table(title=f"stage {name}", title_justify="left")
    table.add_column("part")
    table.add_column("mode")
    for heading in ("trained", "frozen", "learning rate"):
        table.add_column(heading, justify="right")
    for part in summary.parts:
        lr = f"{part.lr:g}" if part.trained else "–"
        table.add_row(part.part, part.mode, f"{part.trained:,}", f"{part.frozen:,}", lr)
    return table


def _trained(part: nn.Module) -> list[nn.Parameter]:
    return [weight for weight in part.parameters() if weight.requires_grad]
