"""An invertible mixing of features that no linear map undoes, for the lab.

Additive coupling layers (Dinh et al. 2015, "NICE"): one half of the features is shifted by a fixed
random function of the other, then the halves are exchanged and shuffled. Each step is undone by
subtracting the same shift, so no property of the image is lost, but the stronger the mixing, the
less of it a linear layer can read.

Shapes: any leading ones · d width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

SEED = 20_230_417
"""Of the random functions; the same in every run, so a mixing is determined by its strength."""
STEPS = 6
INNER = 4
"""Hidden units of a step's function for each of its inputs."""
SHARPNESS = 2.5
"""Scale of what enters the tanh: at 1 and less it is nearly linear."""


class FeatureMixing(nn.Module):
    """Mixes features (..., d) with a strength; 0 leaves them as they are.

    Its weights follow from width and strength; they are not trained and not saved.
    """

    def __init__(self, width: int, strength: float) -> None:
        super().__init__()
        self.strength = strength
        generator, place = torch.Generator().manual_seed(SEED), torch.get_default_device()
        half, rest = width // 2, width - width // 2
        for step in range(STEPS):
            inner = INNER * half
            with torch.device("cpu"):  # also for a network on the meta device
                draws = {
                    "into": torch.randn(half, inner, generator=generator) * SHARPNESS / half**0.5,
                    "out": torch.randn(inner, rest, generator=generator) / inner**0.5,
                    "order": torch.randperm(width, generator=generator),
                }
            for name, drawn in draws.items():
                self.register_buffer(f"{name}{step}", drawn.to(place), persistent=False)
        self.first_width = half

    def forward(self, features: Tensor) -> Tensor:
        """Mix features (..., d)."""
        for step in range(STEPS):
            first, second = features[..., : self.first_width], features[..., self.first_width :]
            mixed = torch.cat([first, second + self._shift(first, step)], dim=-1)
            features = mixed[..., self.get_buffer(f"order{step}")]
        return features

    def inverse(self, mixed: Tensor) -> Tensor:
        """Return the features (..., d) that were mixed."""
        for step in reversed(range(STEPS)):
            mixed = mixed[..., self.get_buffer(f"order{step}").argsort()]
            first, second = mixed[..., : self.first_width], mixed[..., self.first_width :]
            mixed = torch.cat([first, second - self._shift(first, step)], dim=-1)
        return mixed

    def _shift(self, first: Tensor, step: int) -> Tensor:
        """Return what is added to the second half: as large as the first is, times the strength."""
        size = first.square().mean(dim=-1, keepdim=True).sqrt().clamp_min(1e-6)
        hidden = torch.tanh(first / size @ self.get_buffer(f"into{step}").to(first))
        return self.strength * size * (hidden @ self.get_buffer(f"out{step}").to(first))
