"""Optimisers by the recipe's names, as one thing: AdamW, or Muon with AdamW for what is no matrix.

Muon (Jordan et al. 2024) makes each update of a weight matrix orthogonal. On small models that
start from far away, a fresh connector above all, it needs several times fewer steps than AdamW.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer

from laterna.errors import LaternaError
from laterna.recipe import StageSettings
from laterna.training.stages import Parts, parameter_groups

BETAS = (0.9, 0.999)
"""AdamW's, as in LLaVA's scripts (transformers' default)."""
BESIDE_MUON = 0.4
"""Share of Muon's learning rate that AdamW has beside it, for embeddings, biases and norms."""
MOMENTS: dict[type[Optimizer], tuple[str, ...]] = {
    AdamW: ("exp_avg", "exp_avg_sq"),
    Muon: ("momentum_buffer",),
}
"""What an optimiser remembers of a weight, in the weight's own shape."""


class Optimisers:
    """The optimisers of a stage; together they hold every weight that trains, once."""

    def __init__(self, assistant: Parts, stage: StageSettings) -> None:
        self.all: tuple[Optimizer, ...] = tuple(
            Muon(groups, adjust_lr_fn="match_rms_adamw")
            if kind is Muon
            else AdamW(groups, betas=BETAS, fused=True)
            for kind, groups in _divided(assistant, stage)
        )
        self._of = {
            weight: one
            for one in self.all
            for group in one.param_groups
            for weight in group["params"]
        }

    @property
    def groups(self) -> list[dict[str, Any]]:
        """The parameter groups of all, each with its learning rate."""
        return [group for one in self.all for group in one.param_groups]

    def step(self) -> None:
        """Change every weight by its gradient."""
        for one in self.all:
            one.step()

    def forget_gradients(self) -> None:
        """Drop all gradients."""
        for one in self.all:
            one.zero_grad(set_to_none=True)

    def moments(self, weight: nn.Parameter) -> dict[str, Tensor]:
        """Return what is remembered of a weight, by name; writing into it resumes."""
        state = self._state(weight)
        return {name: state[name] for name in MOMENTS[type(self._of[weight])]}

    def set_steps(self, weight: nn.Parameter, taken: float) -> None:
        """Say how many steps a weight has taken, where its optimiser counts them."""
        state = self._state(weight)
        if "step" in state:
            state["step"].fill_(taken)

    def _state(self, weight: nn.Parameter) -> Any:
        """Return the state of a weight, made as its optimiser makes it at the first step."""
        one = self._of[weight]
        state = one.state[weight]
        if not state:
            if isinstance(one, AdamW):
                state["step"] = torch.zeros((), dtype=torch.float32, device=weight.device)
            for name in MOMENTS[type(one)]:
                state[name] = torch.zeros_like(weight, memory_format=torch.preserve_format)
        return state


def insist_whole_matrices(stage: StageSettings, *, sharded: bool) -> None:
    """Raise LaternaError where the optimiser needs whole matrices and ranks hold shares of them."""
    if stage.optimiser == "muon" and sharded:
        raise LaternaError(
            'optimiser = "muon" needs whole matrices, which fsdp does not keep; '
            'set run.engine = "ddp", or optimiser = "adamw"'
        )


def count_moments(assistant: Parts, stage: StageSettings) -> int:
    """Return how many numbers a stage's optimisers remember, over all weights that they train."""
    return sum(
        len(MOMENTS[kind]) * int(weight.numel())
        for kind, groups in _divided(assistant, stage)
        for group in groups
        for weight in group["params"]
    )


def _divided(
    assistant: Parts, stage: StageSettings
) -> list[tuple[type[Optimizer], list[dict[str, Any]]]]:
    """Return what each of a stage's optimisers takes, none of them nothing."""
    groups = parameter_groups(assistant, stage)
    if stage.optimiser == "adamw":
        return [(AdamW, groups)]
    split = _split(groups, _embeddings(assistant))
    return [(kind, own) for kind, own in ((Muon, split.matrices), (AdamW, split.others)) if own]


class _Split(NamedTuple):
    matrices: list[dict[str, Any]]
    others: list[dict[str, Any]]


def _split(groups: list[dict[str, Any]], embeddings: set[int]) -> _Split:
    """Part every group into what Muon takes and what AdamW takes beside it."""
    split = _Split([], [])
    for group in groups:
        matrices = [w for w in group["params"] if w.ndim == 2 and id(w) not in embeddings]
        others = [w for w in group["params"] if w.ndim != 2 or id(w) in embeddings]
        if matrices:
            split.matrices.append(group | {"params": matrices})
        if others:
            split.others.append(group | {"params": others, "lr": group["lr"] * BESIDE_MUON})
    return split


def _embeddings(assistant: Parts) -> set[int]:
    """Return the ids of tables, whose rows are no directions of one space: embeddings and heads."""
    language: Any = assistant.parts()["language"]
    tables = [language.get_input_embeddings(), language.get_output_embeddings()]
    embeddings = [m for part in assistant.parts().values() for m in part.modules()]
    tables += [module for module in embeddings if isinstance(module, nn.Embedding)]
    return {id(table.weight) for table in tables if table is not None}
