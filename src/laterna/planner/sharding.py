"""What several GPUs change in the memory of one: nothing under DDP, much under FSDP."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from laterna.model.language.causal import layers_of
from laterna.planner.dry_run import DryRun
from laterna.recipe import Recipe
from laterna.records import Record

AHEAD = 2
"""Layers that FSDP holds whole at a time: the one that runs, and the next, already gathered."""


class Share(Record):
    """What one GPU does not hold of a step, and what it gathers for a time, in bytes."""

    weights_elsewhere: int = 0
    gradients_elsewhere: int = 0
    optimizer: float = 1.0
    """Share of the optimizer's states."""
    gathered: int = 0
    """Weights and gradients that are whole while they are needed."""


def share_of(dry_run: DryRun, recipe: Recipe, gpus: int) -> Share:
    """Return what sharding leaves on other GPUs, as `training.parallel` shards.

    A vision tower that does not train stays whole. Layers of the language model are gathered one
    by one; what lies outside them is gathered once and stays. A gradient is whole until it has
    been added up with the others.
    """
    if recipe.run.engine == "ddp" or gpus == 1:
        return Share()
    sharded = list(dry_run.parameters())
    if not _trained(dry_run.vision.parameters()):
        whole = {id(weight) for weight in dry_run.vision.parameters()}
        sharded = [weight for weight in sharded if id(weight) not in whole]
    layers = layers_of(dry_run.language)
    sizes = [sum(weight.nbytes for weight in layer.parameters()) for layer in layers]
    layer_gradients = [_trained(layer.parameters()) for layer in layers]
    weights, gradients = sum(weight.nbytes for weight in sharded), _trained(sharded)
    kept = weights
    if recipe.precision == "bf16":
        # Stored in 32 bits and gathered in 16; those that train are counted with the optimizer.
        kept = 2 * sum(weight.nbytes for weight in sharded if not weight.requires_grad)
    outside = weights - sum(sizes) + gradients - sum(layer_gradients)
    return Share(
        weights_elsewhere=weights - kept // gpus,
        gradients_elsewhere=gradients - gradients // gpus,
        optimizer=1 / gpus,
        gathered=outside + AHEAD * max(sizes) + max(layer_gradients),
    )


def _trained(weights: Iterable[nn.Parameter]) -> int:
    """Return the bytes of the weights' gradients."""
    return sum(weight.nbytes for weight in weights if weight.requires_grad)
