from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor, nn

from laterna.training.throughput import VisionClock


class Slow(torch.autograd.Function):
    """Sleeps 20 ms forward and 40 ms backward."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        time.sleep(0.02)
        return x.clone()

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:  # type: ignore[override]
        time.sleep(0.04)
        return grad


class Tower(nn.Module):
    def __init__(self, trains: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1), requires_grad=trains)

    def forward(self, x: Tensor) -> Tensor:
        return Slow.apply(x * self.weight)  # type: ignore[no-any-return, no-untyped-call]


@pytest.mark.parametrize(("trains", "expected"), [(False, 0.04), (True, 0.12)])
def test_a_tower_is_timed_forward_and_where_it_trains_backward(
    trains: bool, expected: float
) -> None:
    tower, head = Tower(trains), nn.Linear(1, 1)
    clock = VisionClock(tower, torch.device("cpu"))
    for _ in range(2):
        loss = head(tower(torch.ones(1))).sum()
        time.sleep(0.05)  # the rest of the model takes its time too
        loss.backward()
        clock.after_backward()
        time.sleep(0.05)
    assert expected <= clock.take_seconds() < expected + 0.08
    assert clock.take_seconds() == 0
