"""MFU: how much of what this machine's matrix products reach a step's model FLOPs make.

The peak is measured here and now, in the run's own number format, and is no data sheet's: a
laptop and a GPU whose power is capped are held against what they can do.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch

from laterna.model.vlm import VisionLanguageModel
from laterna.records import Batch
from laterna.training.distributed import Ranks
from laterna.training.flops import StepCost, count_cost

PEAK_SECONDS = 0.2
"""How long products are timed; their first one, which warms up, is not."""
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
        """Say for people what MFU is held against."""
        said = f"matrix products reach {self.peak / 1e9:,.0f} GFLOPs a second here"
        if self.cost is None:
            return f"{said}; MFU is not known: shapes alone do not tell what this model computes"
        return said


UNKNOWN = Meter()
"""Measures nothing."""


def set_up_meter(assistant: VisionLanguageModel, ranks: Ranks, *, in_half: bool) -> Meter:
    """Count what a step of the stage costs, and measure the peak of all ranks in a fraction of a
    second, in 16 bits or 32; the stage must have been applied to the assistant. Every rank must
    ask.
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
