"""What trains in a stage, how it computes, and how far it is: all that a saved state has.

Of the recipe's savings, `bf16` computes in 16 bits and keeps trained weights in 32,
`checkpointing` computes a layer's activations again in the backward pass instead of keeping them,
and `compile` lets torch fuse kernels.
"""

from __future__ import annotations

import math
import os
import shutil
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from laterna.errors import LaternaError
from laterna.model.build import fast_dtype
from laterna.model.language.causal import layers_of
from laterna.model.vlm import VisionLanguageModel
from laterna.recipe import Engine, Saving, Schedule, StageSettings
from laterna.training.objective import Objective
from laterna.training.optimizers import Optimizers, require_whole_weights
from laterna.training.parallel import ALONE, ENGINES, Ranks, is_sharded, largest_weight
from laterna.training.throughput import VisionClock

LARGEST = float(torch.finfo(torch.float16).max)
"""Weights of working models are smaller: float16, in which models are exported, ends there."""


class Progress(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far a stage is."""

    step: int = 0
    """Steps whose records were used, which is the place in the data."""
    skipped: int = 0
    """Of these, the ones that changed nothing, since loss or gradient was not finite."""
    empty: int = 0
    """Of these, the ones that changed nothing, since all their records had lost their images."""
    skipped_in_a_row: int = 0
    """The latest of both without a break."""
    faulty: dict[str, int] = msgspec.field(default_factory=dict)
    """Records left out for their images, by reason."""
    records: int = 0
    """Records that the stage trains on, which decide their order; 0: not in an older state."""


class TrainState:
    """The assistant under its objective and engine, with optimizer and progress.

    The stage must have been applied to the assistant. `total` is the number of steps of the
    schedule. `model` gives the loss, `objective` is the same without an engine's wrapper, `weights`
    are those that train, by name; `clock` times the vision tower.
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
            self.model = ENGINES[engine](self.objective, ranks)
        self.weights: dict[str, nn.Parameter] = {
            name: weight for name, weight in assistant.named_parameters() if weight.requires_grad
        }
        require_whole_weights(stage, sharded=is_sharded(self.model))
        self.optimizer = Optimizers(assistant, stage)
        self.peaks = [float(group["lr"]) for group in self.optimizer.groups]
        if not all(map(math.isfinite, [*self.peaks, stage.weight_decay])):
            raise LaternaError(
                f"lr = {max(self.peaks):g}, weight_decay = {stage.weight_decay:g}: give finite ones"
            )
        self.progress = Progress()

    def set_rates(self, step: int) -> float:
        """Set every group's learning rate for a step counted from 0; return the largest."""
        factor = lr_factor(step, self.total, self.stage.warmup_ratio, self.stage.lr_scheduler_type)
        for group, peak in zip(self.optimizer.groups, self.peaks, strict=True):
            group["lr"] = peak * factor
        return max(self.peaks) * factor

    def require_sound(self) -> None:
        """Raise LaternaError where a weight is not finite, or above `LARGEST`; every rank must call
        it.
        """
        largest = largest_weight(self.weights.values())
        last = self.progress.step - self.progress.skipped_in_a_row
        if not math.isfinite(largest):
            raise diverged(last, "the weights are not finite")
        if largest > LARGEST:
            raise diverged(last, f"a weight is as large as {largest:.3g}, above {LARGEST:g}")

    def tensors(self) -> dict[str, Tensor]:
        """Return the trained weights and their moments by name; to resume, write into them."""
        found: dict[str, Tensor] = {}
        for name, weight in self.weights.items():
            found[f"weight.{name}"] = weight.detach()
            for moment, tensor in self.optimizer.moments(weight).items():
                found[f"{moment}.{name}"] = tensor
        return found

    def resume(self, progress: Progress) -> None:
        """Continue from a progress, whose tensors have been written into `tensors()`."""
        self.progress = progress
        taken = float(progress.step - progress.skipped - progress.empty)
        for weight in self.weights.values():
            self.optimizer.set_steps(weight, taken)


def diverged(step: int, fault: str) -> LaternaError:
    """Return the error for weights that step `step`, counted from 1, made useless; 0: no step."""
    if not step:
        return LaternaError(
            f"before any step {fault}; look at the models that the stage starts from"
        )
    return LaternaError(
        f"diverged at step {step}: after it {fault}. No checkpoint was made; states saved before "
        "and the figures by step are kept. Lower the stage's learning rate or its weight decay"
    )


def lr_factor(step: int, total: int, warmup_ratio: float, schedule: Schedule = "cosine") -> float:
    """Return the share of the peak learning rate at a step counted from 0.

    It rises linearly over the first `warmup_ratio` share of `total` steps, starting above 0
    (`constant` does not warm up); `cosine` then falls as half a cosine towards 0.
    """
    rising = 0 if schedule == "constant" else math.ceil(total * warmup_ratio)
    if step < rising:
        return (step + 1) / rising
    if schedule != "cosine":
        return 1.0
    done = (step - rising) / max(1, total - rising)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))


def named_few(names: Sequence[str], few: int = 20) -> str:
    """Return the first names as a list for people, and how many more there are."""
    shown = ", ".join(names[:few])
    return shown + (f" and {len(names) - few} more" if len(names) > few else "")


COMPILERS = ("g++", "clang++", "c++")
"""What torch.compile looks for on a CPU, where `CXX` names none."""
CHANGES_RESULTS: frozenset[Saving] = frozenset({"bf16"})
"""Savings that change what is learned, and so make another run. The others change at most the
order of sums."""


def apply_savings(
    objective: Objective, savings: Collection[Saving], *, sharded: bool = False
) -> None:
    """Apply the recipe's savings to an objective; the stage must have been applied before.

    `sharded`: ranks will share its weights. Raises LaternaError where a model or machine cannot.
    """
    for name, apply in SAVINGS.items():  # in this order, whatever the recipe's
        if name in savings:
            apply(objective, sharded)


def _compute_in_half(objective: Objective, sharded: bool) -> None:
    """Compute in bfloat16, and keep in it the parts that are never saved, as their source has them.

    On a device that is not fast in it all stays in float32. FSDP takes the weights of a group in
    one dtype only, so ranks that share weights keep theirs.
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
    """Keep only the inputs of each layer, in models through which gradients flow."""
    assistant = objective.assistant
    models: list[Any] = [assistant.language]
    if any(weight.requires_grad for weight in assistant.vision.parameters()):
        models.append(assistant.vision.model)
    for model in models:
        if not model.supports_gradient_checkpointing:
            raise LaternaError(
                f"gradient_checkpointing: {type(model).__name__} of transformers does not "
                "support it; leave it out"
            )
        with warnings.catch_warnings():
            # Its name is about to change; the ranges that we support have this one in common.
            warnings.simplefilter("ignore", FutureWarning)
            settings: dict[str, Any] = {"use_reentrant": False}
            if model is assistant.language:
                settings["context_fn"] = assistant.fusion.again
            model.gradient_checkpointing_enable(settings)
        for layer in layers_of(model):
            # Layers checkpoint only in training mode, which those of a frozen part are not in. Set
            # on the layer alone, it leaves the dropouts inside as they are.
            layer.training = True


def _compile(objective: Objective, _sharded: bool) -> None:
    """Compile each layer that gradients flow through: they are alike, so the first one counts."""
    assistant = objective.assistant
    on_cpu = assistant.device.type == "cpu"
    if on_cpu and not any(shutil.which(name) for name in _compilers()):
        raise LaternaError(
            f"compile: on a CPU torch needs a C++ compiler ({', '.join(COMPILERS)}); "
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
