"""LLaVA-1.5's connector: a small perceptron, a token for every patch."""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar, cast

from torch import Tensor, nn

from laterna.errors import LaternaError
from laterna.model.connectors.base import Connector, fit
from laterna.recipe import ConnectorSettings


class MlpConnector(Connector):
    """`depth` linear layers, all of the language model's width, with GELU or nothing between.

    With depth 2 this is LLaVA-1.5's `mlp2x_gelu`, and the projector of
    `LlavaForConditionalGeneration`.
    """

    uses: ClassVar[frozenset[str]] = frozenset({"depth", "activation", "calibrate"})
    is_map: ClassVar[bool] = True

    def __init__(self, settings: ConnectorSettings, d_vision: int, d_language: int) -> None:
        super().__init__()
        if settings.depth < 1:
            raise LaternaError(f"connector.depth = {settings.depth}: an mlp has at least 1 layer")
        self.activation = settings.activation
        between = settings.width or d_language  # of its own only behind a `pool`, which uses it
        widths = [d_vision] + [between] * (settings.depth - 1) + [d_language]
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(widths))

    def tokens(self, n: int) -> int:
        """Return how many tokens an image of `n` features becomes: as many."""
        return n

    def calibrate(self, features_bnd: Tensor, rms_length: float) -> None:
        """Fit fresh weights, as `Connector.calibrate` says."""
        first, last = (cast(nn.Linear, self.layers[end]) for end in (0, -1))
        fit(self, first, last, features_bnd, rms_length)

    def forward(self, features_bnd: Tensor) -> Tensor:
        """Map features (b, n, d_vision) to embeddings (b, n, d_language)."""
        hidden: Tensor = self.layers[0](features_bnd)
        for layer in self.layers[1:]:
            hidden = layer(nn.functional.gelu(hidden) if self.activation == "gelu" else hidden)
        return hidden
