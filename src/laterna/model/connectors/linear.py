"""LLaVA's connector: one linear layer, a token for every patch."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from laterna.model.connectors.base import Connector, fit
from laterna.recipe import ConnectorSettings


class LinearConnector(Connector):
    """One linear layer with bias; 1024 to 4096 has about 4.2 M weights (LLaVA)."""

    uses: ClassVar[frozenset[str]] = frozenset({"calibrate"})
    is_map: ClassVar[bool] = True

    def __init__(self, settings: ConnectorSettings, d_vision: int, d_language: int) -> None:
        super().__init__()
        del settings  # its weights are all it has
        self.project = nn.Linear(d_vision, d_language)

    def tokens(self, n: int) -> int:
        """Return how many tokens an image of `n` features becomes: as many."""
        return n

    def calibrate(self, features_bnd: Tensor, rms_length: float) -> None:
        """Fit fresh weights, as `Connector.calibrate` says."""
        fit(self, self.project, self.project, features_bnd, rms_length)

    def forward(self, features_bnd: Tensor) -> Tensor:
        """Map features (b, n, d_vision) to embeddings (b, n, d_language)."""
        projected: Tensor = self.project(features_bnd)
        return projected
