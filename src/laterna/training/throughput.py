"""What an optimizer step did and how fast: its figures, the vision tower's share, and MFU.

MFU is a step's model FLOPs a second as a share of the rate that matrix products reach on this
machine. The peak is measured at the start, in the run's own dtype, and not taken from a data sheet:
a laptop, or a GPU whose power is capped, is compared with what it can do.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec
import torch
from torch import Tensor, nn

from laterna.model.cost import StepCost, count_cost
from laterna.model.vlm import VisionLanguageModel
from laterna.records import Batch
from laterna.training.parallel import Ranks


class SampleAnswer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The assistant's greedy answer in place of a validation record's first one."""

    id: str
    """Of the record."""
    prompt: str
    """All text before the answer."""
    answer: str
    truth: str
    """The record's answer."""


class Validation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The loss and some answers on records that are not trained on, after a step."""

    loss: float | None
    """Mean cross-entropy over their target tokens, in nats, with dropout off; None: not finite."""
    target_tokens: int
    records: int
    seconds: float
    answers: tuple[SampleAnswer, ...] = ()


class StepFigures(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one optimizer step did over all ranks: a line of `metrics.jsonl`."""

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
    """Tokens computed: text, images and padding."""
    padding: int = 0
    """Of these, the padding."""
    images: int
    skipped: int = 0
    """Steps skipped so far, since loss or gradient was not finite; they have no line."""
    empty: int = 0
    """Steps without a line beside those, for all their records had lost their images."""
    faulty: int = 0
    """Records left out so far for an image that cannot be read."""
    seconds: float
    """Wall-clock from the end of the step before, without validation: also waiting for batches, and
    writing figures and states."""
    model_seconds: float = 0.0
    """Of these, forward, backward and optimizer."""
    vision_seconds: float = 0.0
    """Of these, the vision tower's, as the mean over the ranks: forward, and backward where it
    trains."""
    flops: float = 0.0
    """Of the model, forward and backward, padding left out; 0: not known."""
    mfu: float | None = None
    """These over `seconds`, as a share of what matrix products reach here (`training.throughput`),
    0..1."""
    validation: Validation | None = None
    """Where there was one after the step."""

    @property
    def padding_share(self) -> float:
        """Share of the tokens computed that are padding, 0..1."""
        return self.padding / self.tokens if self.tokens else 0.0


class Speeds(NamedTuple):
    """How fast steps were, and where their time went."""

    seconds: float
    """Of all of them."""
    target_tokens: float
    """A second, as the next two."""
    tokens: float
    images: float
    mfu: float | None
    """As in `StepFigures`; None where it is known of no step."""
    padding: float
    """Share of the tokens, 0..1."""
    vision: float
    """Share of the seconds that the vision tower took, 0..1."""
    loop: float
    """Share that was neither forward, backward nor optimizer, 0..1."""


def speeds(steps: Collection[StepFigures]) -> Speeds:
    """Return how fast steps were, taken together; there is at least one."""

    def total(name: str) -> float:
        return float(sum(getattr(step, name) for step in steps))

    seconds = total("seconds")
    known = [step.mfu * step.seconds for step in steps if step.mfu is not None]
    return Speeds(
        seconds=seconds,
        target_tokens=total("target_tokens") / seconds,
        tokens=total("tokens") / seconds,
        images=total("images") / seconds,
        mfu=sum(known) / seconds if known else None,
        padding=total("padding") / max(1.0, total("tokens")),
        vision=total("vision_seconds") / seconds,
        loop=1 - total("model_seconds") / seconds,
    )


def named_figures(figures: StepFigures) -> dict[str, float]:
    """Return the figures that are known by the names that they have in trackers, with speeds.

    What stands before the slash is how TensorBoard groups its charts.
    """
    named = {
        "train/loss": figures.loss,
        "train/lr": figures.lr,
        "train/grad_norm": figures.grad_norm,
        "train/skipped": figures.skipped,
        "train/faulty": figures.faulty,
        "speed/target_tokens_per_second": figures.target_tokens / figures.seconds,
        "speed/tokens_per_second": figures.tokens / figures.seconds,
        "speed/images_per_second": figures.images / figures.seconds,
        "speed/padding_share": figures.padding_share,
        "speed/vision_share": figures.vision_seconds / figures.seconds,
        "speed/seconds": figures.seconds,
    }
    if figures.mfu is not None:
        named["speed/mfu"] = figures.mfu
    if figures.validation is not None and figures.validation.loss is not None:
        named["validation/loss"] = figures.validation.loss
    return named


Mark = Any
"""A moment: seconds on a CPU, an event in the queue of a GPU, which runs asynchronously."""


class VisionClock:
    """Times the forward passes of a module, and its backward passes where it trains.

    The backward pass of the first module of a model runs last: it is timed from when the gradient
    of the module's output is there until `after_backward`.
    """

    def __init__(self, tower: nn.Module, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._spans: list[tuple[Mark, Mark]] = []
        self._begun: Mark | None = None
        self._gradient: Mark | None = None
        tower.register_forward_pre_hook(self._before_forward)
        tower.register_forward_hook(self._after_forward)

    def after_backward(self) -> None:
        """Say that the backward pass of a micro-batch has ended."""
        if self._gradient is not None:
            self._spans.append((self._gradient, self._mark()))
            self._gradient = None

    def take_seconds(self) -> float:
        """Return the seconds since the last call; a GPU must have finished what was timed."""
        spans, self._spans = self._spans, []
        if self._on_gpu:
            return float(sum(begin.elapsed_time(end) for begin, end in spans)) / 1000
        return float(sum(end - begin for begin, end in spans))

    def _mark(self) -> Mark:
        if not self._on_gpu:
            return time.perf_counter()
        event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def _before_forward(self, _tower: nn.Module, _args: tuple[Any, ...]) -> None:
        self._begun = self._mark()

    def _after_forward(self, _tower: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        self._spans.append((self._begun, self._mark()))
        if output.requires_grad:
            output.register_hook(self._before_backward)

    def _before_backward(self, _grad: Tensor) -> None:
        self._gradient = self._mark()


PEAK_SECONDS = 0.2
"""How long products are timed, after a first one that warms up."""
GPU_SIDE, CPU_SIDE, MANY_CORES_SIDE = 8192, 1024, 4096
"""Rows and columns of the matrices: enough to keep the device busy, and no more on a CPU."""
MANY_CORES = 8
"""CPU threads that need larger matrices."""


class Meter(NamedTuple):
    """What turns a step into FLOPs, and FLOPs into MFU."""

    cost: StepCost | None = None
    """None: not known."""
    peak: float = 0.0
    """FLOPs a second of matrix products, over all ranks."""

    def flops(self, batches: Sequence[Batch], length: int) -> float:
        """Return this rank's model FLOPs of a step, padding left out; 0: not known."""
        return 0.0 if self.cost is None else self.cost.of(batches, length)

    def mfu(self, flops: float, seconds: float) -> float | None:
        """Return all ranks' FLOPs as a share of the peak, 0..1; None: not known."""
        return flops / (self.peak * seconds) if flops and self.peak else None

    def line(self) -> str:
        """Return a line about the peak, and whether MFU is known."""
        peak = f"matrix products reach {self.peak / 1e9:,.0f} GFLOPs a second here"
        if self.cost is None:
            return f"{peak}; MFU is not known: shapes alone do not tell what this model computes"
        return peak


UNKNOWN = Meter()
"""Measures nothing."""


def set_up_meter(assistant: VisionLanguageModel, ranks: Ranks, *, in_half: bool) -> Meter:
    """Count what a step of the stage costs, and measure the peak of all ranks, in 16 bits or 32.

    The stage must have been applied to the assistant. Every rank must call it.
    """
    dtype, threads = torch.bfloat16 if in_half else torch.float32, torch.get_num_threads()
    [peak] = ranks.total([matmul_peak(ranks.device, dtype, threads)])
    return Meter(cost=count_cost(assistant), peak=peak)


@lru_cache
def matmul_peak(device: torch.device, dtype: torch.dtype, threads: int) -> float:
    """Return the FLOPs a second of the best of several matrix products.

    `threads` are those that torch uses on a CPU. Nothing is drawn from torch's global generators.
    """
    on_gpu = device.type != "cpu"
    side = GPU_SIDE if on_gpu else CPU_SIDE if threads <= MANY_CORES else MANY_CORES_SIDE
    noise = torch.Generator(device).manual_seed(0)
    left = torch.randn(side, side, generator=noise, device=device).to(dtype)
    product = torch.empty_like(left)
    best = float("inf")
    until = time.perf_counter() + PEAK_SECONDS
    for number in range(1000):
        begun = time.perf_counter()
        torch.mm(left, left, out=product)
        if on_gpu:
            torch.accelerator.synchronize(device)
        now = time.perf_counter()
        best = min(best, now - begun) if number else best
        if number and now > until:
            break
    return 2.0 * side**3 / best
