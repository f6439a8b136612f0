"""What saves time or memory in training, by the recipe's names: one function each.

`bf16` computes in 16 bits and keeps trained weights in 32, `checkpointing` computes a layer's
insides again in the backward pass instead of keeping them, `compile` lets torch make one kernel of
many.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch

from laterna.errors import LaternaError
from laterna.model.build import fast_dtype
from laterna.recipe import Saving
from laterna.training.objective import Objective
from laterna.training.stages import layers_of

COMPILERS = ("g++", "clang++", "c++")
"""What torch.compile looks for on a CPU, where `CXX` names none."""
CHANGES_RESULTS: frozenset[Saving] = frozenset({"bf16"})
"""Savings that change what is learned, and so make another run. The others change at most the
order of sums."""


def apply_savings(
    objective: Objective, savings: Collection[Saving], *, sharded: bool = False
) -> None:
    """Let an objective save what the recipe names; call it when the stage has been applied.

    `sharded` says that its weights will lie on several ranks. Raises LaternaError where a model or
    machine cannot.
    """
    for name, apply in SAVINGS.items():  # in this order, whatever the recipe's
        if name in savings:
            apply(objective, sharded)


def _compute_in_half(objective: Objective, sharded: bool) -> None:
    """Compute in bfloat16; hold in it what stays as its source has it, since it is never saved.

    On a device that is not fast in it all stays in float32, which is the quicker there.
    FSDP takes the weights of a group in one type alone, so ranks that share weights keep theirs.
    """
    assistant = objective.assistant
    if fast_dtype(assistant.device) is not torch.bfloat16:
        return
    objective.in_half = True
    if sharded:
        return
    for name, part in assistant.parts().items():
        trains = any(weight.requires_grad for weight in part.parameters())
        if not trains and name != "connector" and name not in assistant.changed:
            part.to(torch.bfloat16)


def _compute_again(objective: Objective, _sharded: bool) -> None:
    """Keep the inputs of each layer alone, in models through which gradients flow."""
    assistant = objective.assistant
    models: list[Any] = [assistant.language]
    if any(weight.requires_grad for weight in assistant.vision.parameters()):
        models.append(assistant.vision.model)
    for model in models:
        if not model.supports_gradient_checkpointing:
            raise LaternaError(
                f"savings = 'checkpointing': {type(model).__name__} of transformers does not "
                "support it; leave it out"
            )
        with warnings.catch_warnings():
            # Its name is about to change; the ranges that we support have this one in common.
            warnings.simplefilter("ignore", FutureWarning)
            model.gradient_checkpointing_enable({"use_reentrant": False})
        for layer in layers_of(model):
            # A layer computes again only in training mode, which those of a frozen part are not
            # in. Set on the layer alone it leaves the dropouts inside as they are.
            layer.training = True


def _compile(objective: Objective, _sharded: bool) -> None:
    """Compile each layer that gradients flow through: they are alike, so the first one counts."""
    assistant = objective.assistant
    on_cpu = assistant.device.type == "cpu"
    if on_cpu and not any(shutil.which(name) for name in _compilers()):
        raise LaternaError(
            f"savings = 'compile': on a CPU torch needs a C++ compiler ({', '.join(COMPILERS)}); "
            "install one, name it in CXX, or leave it out"
        )
    for layer in layers_of(assistant.language):
        layer.compile(dynamic=True)


def _compilers() -> Iterator[str]:
    yield from COMPILERS
    if os.environ.get("CXX"):
        yield os.environ["CXX"]


SAVINGS: dict[Saving, Callable[[Objective, bool], None]] = {
    "bf16": _compute_in_half,
    "checkpointing": _compute_again,
    "compile": _compile,
}
"""What each name of the recipe does to an objective."""
