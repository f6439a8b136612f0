"""What learns in a stage, and how far it has come: all that a saved state holds."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import msgspec
from torch import Tensor, nn

from laterna.errors import LaternaError
from laterna.model.vlm import VisionLanguageModel
from laterna.recipe import Engine, Saving, StageSettings
from laterna.training.clock import VisionClock
from laterna.training.distributed import ALONE, Ranks
from laterna.training.objective import Objective
from laterna.training.optimisers import Optimisers, insist_whole_weights
from laterna.training.savings import apply_savings
from laterna.training.sharding import ENGINES, is_sharded, weights_norm


class Progress(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far a stage has come."""

    step: int = 0
    """Steps whose records were used: the place in the data."""
    skipped: int = 0
    """Of these, the ones that changed nothing, since loss or gradient was not finite."""
    empty: int = 0
    """Of these, the ones that changed nothing, since all their records had lost their pictures."""
    skipped_in_a_row: int = 0
    """The latest of both, one after the other."""
    faulty: dict[str, int] = msgspec.field(default_factory=dict)
    """Records left out for their pictures, by reason."""
    records: int = 0
    """Records that the stage learns from, which decide its order; 0: an older state tells none."""


class Learner:
    """The assistant under its objective and engine, with optimiser and progress.

    The stage must have been applied to the assistant. `total` is the number of steps that the
    schedule spans. `model` is what a loss is asked from, `objective` the same without an engine's
    wrapper, `weights` those that train, by name; `clock` times the vision tower.
    """

    def __init__(
        self,
        assistant: VisionLanguageModel,
        stage: StageSettings,
        *,
        total: int,
        ranks: Ranks = ALONE,
        engine: Engine = "ddp",
        savings: Collection[Saving] = (),
    ) -> None:
        self.stage = stage
        self.total = total
        self.ranks = ranks
        self.objective = Objective(assistant)
        self.clock = VisionClock(assistant.vision, ranks.device)
        apply_savings(self.objective, savings, sharded=ranks.count > 1 and engine == "fsdp")
        self.model: nn.Module = self.objective
        if ranks.count > 1:
            self.model = ENGINES[engine](self.objective)
        self.weights: dict[str, nn.Parameter] = {
            name: weight for name, weight in assistant.named_parameters() if weight.requires_grad
        }
        insist_whole_weights(stage, sharded=is_sharded(self.model))
        self.optimiser = Optimisers(assistant, stage)
        self.peaks = [float(group["lr"]) for group in self.optimiser.groups]
        if not all(map(math.isfinite, [*self.peaks, stage.weight_decay])):
            raise LaternaError(
                f"lr = {max(self.peaks):g}, weight_decay = {stage.weight_decay:g}: give finite ones"
            )
        self.progress = Progress()

    def set_rates(self, step: int) -> float:
        """Set every group's learning rate for a step counted from 0; return the largest."""
        factor = lr_factor(step, self.total, self.stage.warmup)
        for group, peak in zip(self.optimiser.groups, self.peaks, strict=True):
            group["lr"] = peak * factor
        return max(self.peaks) * factor

    def insist_finite(self) -> None:
        """Raise LaternaError where a weight is not finite, or close to it; every rank must ask."""
        if not math.isfinite(weights_norm(self.weights.values())):
            last = self.progress.step - self.progress.skipped_in_a_row
            raise diverged(last, "the weights are not finite")

    def tensors(self) -> dict[str, Tensor]:
        """Return the trained weights and their moments by name: writing into them resumes."""
        found: dict[str, Tensor] = {}
        for name, weight in self.weights.items():
            found[f"weight.{name}"] = weight.detach()
            for moment, tensor in self.optimiser.moments(weight).items():
                found[f"{moment}.{name}"] = tensor
        return found

    def resume(self, progress: Progress) -> None:
        """Go on from a progress, whose tensors have been written into `tensors()`."""
        self.progress = progress
        taken = float(progress.step - progress.skipped - progress.empty)
        for weight in self.weights.values():
            self.optimiser.set_steps(weight, taken)


def diverged(step: int, said: str) -> LaternaError:
    """Return the error for weights that step `step`, counted from 1, made useless; 0: no step."""
    if not step:
        return LaternaError(
            f"before any step {said}; look at the models that the stage starts from"
        )
    return LaternaError(
        f"diverged at step {step}: after it {said}. No checkpoint was made; states saved before "
        "and the figures by step are kept. Lower the stage's learning rate or its weight decay"
    )


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
