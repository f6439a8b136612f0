from __future__ import annotations

import pytest
import torch

from laterna.model.cost import StepCost
from laterna.training.throughput import UNKNOWN, Meter, matmul_peak

COST = StepCost(vision=0, connector=0, token=1, pair=0, target=0)


def test_mfu_is_the_share_of_the_peak_that_a_steps_work_makes() -> None:
    meter = Meter(cost=COST, peak=2e9)
    assert meter.mfu(3e8, seconds=0.5) == pytest.approx(0.3)
    assert meter.line() == "matrix products reach 2 GFLOPs a second here"
    assert meter._replace(cost=None).line().endswith("what this model computes")


def test_what_is_not_known_is_not_guessed() -> None:
    assert UNKNOWN.flops([], 0) == 0
    assert UNKNOWN.mfu(0.0, seconds=1.0) is None
    assert Meter(cost=COST, peak=0.0).mfu(1.0, seconds=1.0) is None


def test_the_peak_is_measured_once_and_draws_nothing() -> None:
    drawn = torch.get_rng_state()
    cpu = torch.device("cpu")
    peak = matmul_peak(cpu, torch.float32, torch.get_num_threads())
    assert torch.equal(torch.get_rng_state(), drawn)
    assert 1e8 < peak < 1e14
    assert matmul_peak(cpu, torch.float32, torch.get_num_threads()) == peak
