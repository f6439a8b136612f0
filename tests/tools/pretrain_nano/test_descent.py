from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

from pretrain_nano.descent import Descent


def test_a_loss_falls_and_a_steep_one_is_clipped() -> None:
    weight = nn.Parameter(torch.tensor([3.0]))
    descent = Descent([weight], lr=0.5, steps=20, rise=0.2)
    for _ in range(20):
        descent.step((1e6 * weight**2).sum())
        assert weight.grad is not None
        assert weight.grad.norm().item() <= 1.0 + 1e-5
    assert abs(weight.item()) < 1.0


def test_the_rate_rises_to_its_peak_and_falls_to_nothing() -> None:
    weight = nn.Parameter(torch.zeros(1))
    descent = Descent([weight], lr=1e-3, steps=11, rise=0.5)
    places = [0.0]
    for _ in range(11):
        descent.step(weight.sum())
        places.append(weight.item())
    steps = [1e3 * (before - after) for before, after in pairwise(places)]
    assert 0.7 < max(steps) <= 1.0, "of the peak rate, less by the cycle of momentum"
    assert steps[0] < 0.1
    assert steps.index(max(steps)) in (4, 5, 6)
    assert steps[-1] < 0.01
