"""The training loop: forward, backward, clip, step, and nothing hidden."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence

import msgspec
import torch
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from laterna.errors import LaternaError
from laterna.model.assistant import Assistant
from laterna.recipe import StageSettings
from laterna.records import Batch
from laterna.training.objective import backward
from laterna.training.stages import parameter_groups

BETAS = (0.9, 0.999)
"""AdamW's, as in LLaVA's scripts (transformers' default)."""


class StepFigures(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one optimiser step did: a line of `metrics.jsonl`."""

    step: int
    """Counted from 1."""
    loss: float
    """Mean cross-entropy over the step's target tokens, in nats."""
    lr: float
    """The largest learning rate of the step's parameter groups."""
    grad_norm: float
    """Before clipping."""
    target_tokens: int
    tokens: int
    """Tokens computed: text, pictures and padding."""
    pictures: int
    seconds: float
    """Wall-clock of the step, the making of its batches included."""


def train_steps(
    assistant: Assistant, stage: StageSettings, steps: Iterable[Sequence[Batch]], *, total: int
) -> Iterator[StepFigures]:
    """Train on each step's micro-batches in turn and yield what the step did.

    The stage must have been applied. `total` is the number of steps that the schedule spans.
    Raises LaternaError naming the step's records when loss or gradient is not finite; the weights
    are then those of the step before.
    """
    groups = parameter_groups(assistant, stage)
    weights = [weight for group in groups for weight in group["params"]]
    optimiser = AdamW(groups, betas=BETAS, fused=True)
    schedule = LambdaLR(optimiser, lambda step: lr_factor(step, total, stage.warmup))
    begun = time.perf_counter()
    for number, batches in enumerate(steps, start=1):
        loss, targets = backward(assistant, batches)
        norm = nn.utils.clip_grad_norm_(weights, stage.clip if stage.clip > 0 else math.inf)
        _insist_finite(loss, norm, number, batches)
        lr = float(max(schedule.get_last_lr()))
        optimiser.step()
        schedule.step()
        optimiser.zero_grad(set_to_none=True)
        now = time.perf_counter()
        yield StepFigures(
            step=number,
            loss=float(loss),
            lr=lr,
            grad_norm=float(norm),
            target_tokens=targets,
            tokens=sum(batch.input_ids_rt.numel() for batch in batches),
            pictures=sum(len(batch.pictures) for batch in batches),
            seconds=now - begun,
        )
        begun = time.perf_counter()


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


def _insist_finite(
    loss: torch.Tensor, norm: torch.Tensor, number: int, batches: Sequence[Batch]
) -> None:
    if math.isfinite(float(loss)) and math.isfinite(float(norm)):
        return
    names = [name for batch in batches for name in batch.ids]
    shown = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    raise LaternaError(
        f"step {number}: loss {float(loss)}, gradient norm {float(norm)}: not finite, in records "
        f"{shown}; lower the learning rate or look at these records"
    )
