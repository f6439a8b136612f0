"""How a vision encoder's weights follow a loss: AdamW along one cycle of learning rates."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class Descent:
    """The optimizer of a pretraining with its learning rates; gradients are clipped to length 1."""

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, steps: int, *, rise: float
    ) -> None:
        """Take the peak learning rate, and the share of the steps in which it is reached."""
        self._parameters = list(parameters)
        self._optimizer = torch.optim.AdamW(self._parameters, lr=lr, weight_decay=0.05)
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimizer, lr, total_steps=steps, pct_start=rise
        )

    def step(self, loss: Tensor) -> None:
        """Follow the gradients of a loss for one step."""
        self._optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._optimizer.step()
        self._schedule.step()
