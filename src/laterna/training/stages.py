"""What a stage trains: the part table of the recipe, applied to the assistant."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from rich.table import Table
from torch import nn

from laterna.errors import LaternaError
from laterna.model.language.adapters import (
    add_lora,
    has_lora,
    layer_numbers,
    lora_layers,
    train_lora,
)
from laterna.model.language.causal import layers_of
from laterna.model.language.quantize import count_weights, is_quantized
from laterna.model.vision import VisionTower
from laterna.recipe import Mode, PartName, Recipe, StageName, StageSettings

FROZEN, FULL, LORA = "frozen", "full", "lora"
"""Modes of a part. There are also `last-N` and `lora-last-N`, of its last N layers."""


class Parts(Protocol):
    """What a stage can be applied to: a network, on the meta device too (`model.build`)."""

    changed: set[PartName]

    def parts(self) -> dict[PartName, nn.Module]:
        """Return the three parts by the names that recipes give them."""
        ...

    def adaptable(self) -> dict[PartName, nn.Module]:
        """Return the modules that may carry adapters, by part."""
        ...


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


def apply_stage(assistant: Parts, recipe: Recipe, name: StageName) -> StageSummary:
    """Freeze or unfreeze each part as the stage says, and mark those whose own weights will change.

    Fresh adapters are seeded by the recipe; a part's earlier adapters train on. Raises LaternaError
    when nothing trains, a part trains with a learning rate of 0 or less, or a mode does not fit a
    part or its adapters.
    """
    stage = recipe.stage(name)
    for part_name, part in assistant.parts().items():
        settings = stage.part(part_name)
        if settings.mode != FROZEN and settings.lr <= 0:
            raise LaternaError(
                f"{part_name}.lr = {settings.lr}: a part in mode `{settings.mode}` needs a "
                "learning rate above 0"
            )
        part.requires_grad_(False)
        if settings.mode.startswith(LORA):
            _train_adapters(assistant, part_name, recipe, settings.mode)
        elif settings.mode != FROZEN:
            _train_weights(assistant, part_name, part, settings.mode)
        # Last, for a part may keep modules with frozen weights in evaluation mode.
        part.train(settings.mode != FROZEN)
    summary = summarize(assistant, stage)
    if not summary.trained:
        raise LaternaError("the stage trains no part; set the mode of at least one to `full`")
    return summary


def summarize(assistant: Parts, stage: StageSettings) -> StageSummary:
    """Count the weights of each part as they stand: those that train, and those that do not."""
    summaries = []
    for name, part in assistant.parts().items():
        settings = stage.part(name)
        trained = sum(weight.numel() for weight in _trained(part))
        count = sum(map(count_weights, part.parameters()))
        summaries.append(
            PartSummary(
                part=name,
                mode=settings.mode,
                lr=settings.lr if trained else 0.0,
                trained=trained,
                frozen=count - trained,
            )
        )
    return StageSummary(tuple(summaries))


def _train_adapters(assistant: Parts, name: PartName, recipe: Recipe, mode: Mode) -> None:
    module = assistant.adaptable().get(name)
    if module is None:
        able = " and ".join(assistant.adaptable())
        raise LaternaError(f"{name}.mode = `{mode}`: only {able} can carry adapters")
    layers = [] if mode == LORA else _last_layers(name, assistant.parts()[name], mode)
    if not has_lora(module):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            add_lora(module, recipe.lora, layers)
    elif lora_layers(module) != layer_numbers(module, layers):
        numbers = ", ".join(str(number + 1) for number in lora_layers(module))
        raise LaternaError(
            f"{name}.mode = `{mode}`: this part carries adapters from an earlier stage in "
            f"{f'its layers {numbers} alone' if numbers else 'all layers'}; "
            "give both stages the same mode"
        )
    train_lora(module, trains=True)


def _train_weights(assistant: Parts, name: PartName, part: nn.Module, mode: Mode) -> None:
    """Unfreeze all of a part's weights, or those of its last layers."""
    if name in assistant.adaptable() and has_lora(assistant.adaptable()[name]):
        raise LaternaError(
            f"{name}.mode = `{mode}`: this part carries adapters from an earlier stage; "
            "use that stage's mode to go on with them, or `frozen`"
        )
    if is_quantized(part):
        raise LaternaError(
            f"{name}.mode = `{mode}`: this part's matrices are in 4 bits, which do not train; use "
            "`lora` or `frozen`, or leave out language.quantize"
        )
    for module in [part] if mode == FULL else _last_layers(name, part, mode):
        module.requires_grad_(True)
    assistant.changed.add(name)


def _last_layers(name: PartName, part: nn.Module, mode: Mode) -> list[nn.Module]:
    count = int(mode.rpartition("-")[2])
    if isinstance(part, VisionTower):
        return part.last_layers(count, closing=not mode.startswith(LORA))
    if name == "connector":
        raise LaternaError(f"{name}.mode = `{mode}`: a connector trains whole; use `full`")
    layers = layers_of(part)
    if count > len(layers):
        raise LaternaError(f"{name}.mode = `{mode}`: this part has {len(layers)} layers")
    return layers[-count:]


def parameter_groups(assistant: Parts, stage: StageSettings) -> list[dict[str, Any]]:
    """Return the optimizer's groups, two for each trained part: biases and norms do not decay."""
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
