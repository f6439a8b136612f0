"""What learns in a stage, and how far it has come: all that a saved state holds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec
import torch
from torch import Tensor, nn
from torch.optim import AdamW

from laterna.model.assistant import Assistant
from laterna.recipe import Engine, StageSettings
from laterna.training.distributed import ALONE, Ranks
from laterna.training.objective import Objective
from laterna.training.sharding import ENGINES
from laterna.training.stages import parameter_groups

BETAS = (0.9, 0.999)
"""AdamW's, as in LLaVA's scripts (transformers' default)."""


class Progress(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far a stage has come."""

    step: int = 0
    """Steps whose records were used: the place in the data."""
    skipped: int = 0
    """Of these, the ones that changed nothing, since loss or gradient was not finite."""
    skipped_in_a_row: int = 0
    """The latest of them, one after the other."""
    faulty: dict[str, int] = msgspec.field(default_factory=dict)
    """Records left out for their pictures, by reason."""


class Learner:
    """The assistant under its objective and engine, with optimiser and progress.

    The stage must have been applied to the assistant. `total` is the number of steps that the
    schedule spans. `model` is what a loss is asked from, `objective` the same without an engine's
    wrapper, `weights` those that train, by name.
    """

    def __init__(
        self,
        assistant: Assistant,
        stage: StageSettings,
        *,
        total: int,
        ranks: Ranks = ALONE,
        engine: Engine = "ddp",
    ) -> None:
        self.stage = stage
        self.total = total
        self.ranks = ranks
        self.objective = Objective(assistant)
        self.model: nn.Module = self.objective
        if ranks.count > 1:
            self.model = ENGINES[engine](self.objective)
        self.weights: dict[str, nn.Parameter] = {
            name: weight for name, weight in assistant.named_parameters() if weight.requires_grad
        }
        self.optimiser = AdamW(parameter_groups(assistant, stage), betas=BETAS, fused=True)
        self.peaks = [float(group["lr"]) for group in self.optimiser.param_groups]
        self.progress = Progress()

    def set_rates(self, step: int) -> float:
        """Set every group's learning rate for a step counted from 0; return the largest."""
        factor = lr_factor(step, self.total, self.stage.warmup)
        for group, peak in zip(self.optimiser.param_groups, self.peaks, strict=True):
            group["lr"] = peak * factor
        return max(self.peaks) * factor

    def tensors(self) -> dict[str, Tensor]:
        """Return the trained weights and AdamW's moments by name: writing into them resumes."""
        found: dict[str, Tensor] = {}
        for name, weight in self.weights.items():
            state = self._state(weight)
            found[f"weight.{name}"] = weight.detach()
            found[f"exp_avg.{name}"] = state["exp_avg"]
            found[f"exp_avg_sq.{name}"] = state["exp_avg_sq"]
        return found

    def resume(self, progress: Progress) -> None:
        """Go on from a progress, whose tensors have been written into `tensors()`."""
        self.progress = progress
        taken = float(progress.step - progress.skipped)
        for weight in self.weights.values():
            self._state(weight)["step"].fill_(taken)

    def _state(self, weight: nn.Parameter) -> Any:
        """Return AdamW's state of a weight, made as AdamW itself makes it at its first step."""
        state = self.optimiser.state[weight]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=weight.device)
            state["exp_avg"] = torch.zeros_like(weight, memory_format=torch.preserve_format)
            state["exp_avg_sq"] = torch.zeros_like(weight, memory_format=torch.preserve_format)
        return state


def lr_factor(step: int, total: int, warmup: float) -> float:
    """Return the share of the peak learning rate at a step counted from 0.

    Rises linearly over the first `warmup` share of `total` steps, the first of which is already
    above 0, then falls as half a cosine towards 0.
    """
    rising = math.ceil(total * warmup)
    if step < rising:
        return (step + 1) / rising
    done = (step - rising) / max(1, total - rising)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))


def named_few(names: Sequence[str], few: int = 20) -> str:
    """Return the first names as a list for people, and how many more there are."""
    shown = ", ".join(names[:few])
    return shown + (f" and {len(names) - few} more" if len(names) > few else "")
