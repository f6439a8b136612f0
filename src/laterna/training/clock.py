"""How long the vision tower takes within a step."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor, nn

Mark = Any
"""A moment: seconds on a CPU, an event in the queue of a GPU, which works behind the program."""


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
        """Return the seconds since this was asked last; what was timed must have been awaited."""
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
