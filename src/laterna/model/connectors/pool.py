"""Neighboring patches merged into one token, then a perceptron: a quarter of the tokens by 2×2.

Shapes: b images · n patches · m tokens · d width · s side of the squares that are merged.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isqrt
from typing import ClassVar

from torch import Tensor

from laterna.errors import LaternaError
from laterna.model.connectors.base import Connector
from laterna.model.connectors.mlp import MlpConnector
from laterna.recipe import ConnectorSettings


def _mean(squares_bmsd: Tensor) -> Tensor:
    return squares_bmsd.mean(dim=2)


def _shuffle(squares_bmsd: Tensor) -> Tensor:
    return squares_bmsd.flatten(2)


MERGES: dict[str, Callable[[Tensor], Tensor]] = {"mean": _mean, "shuffle": _shuffle}
"""Squares (b, m, s², d) into tokens: their mean, or pixel shuffle (space to depth), which keeps
all s² features side by side, row by row, as Idefics3 and SmolVLM do."""


class PoolConnector(Connector):
    """Merges squares of `merge_side` patches a side, and maps them by an `mlp` of `depth` layers.

    With `merge = "shuffle"` and depth 1 this is the connector of Idefics3 and SmolVLM, but for a
    bias, which theirs lacks.
    """

    uses: ClassVar[frozenset[str]] = frozenset(
        {"depth", "width", "merge", "merge_side", "calibrate"}
    )
    is_map: ClassVar[bool] = True

    def __init__(self, settings: ConnectorSettings, d_vision: int, d_language: int) -> None:
        """Raise LaternaError for a side below 2 or an mlp without layers."""
        super().__init__()
        if settings.merge_side < 2:
            raise LaternaError(
                f"connector.merge_side = {settings.merge_side}: the smallest square is 2; "
                "use connector.kind = 'mlp' to merge nothing"
            )
        self.merge = MERGES[settings.merge]
        self.side = settings.merge_side
        width = d_vision * self.side**2 if settings.merge == "shuffle" else d_vision
        self.mlp = MlpConnector(settings, width, d_language)

    def tokens(self, n: int) -> int:
        """Return how many tokens an image of `n` features becomes: n / merge_side².

        Raises LaternaError when the patches do not fill a square, or it does not divide.
        """
        grid = isqrt(n)
        if grid * grid != n:
            raise LaternaError(
                f"connector.kind = 'pool': {n} features do not form a square of patches; set "
                "vision.class_token = false"
            )
        if grid % self.side:
            able = ", ".join(str(side) for side in range(2, grid + 1) if grid % side == 0)
            raise LaternaError(
                f"connector.merge_side = {self.side}: {grid}×{grid} patches do not divide into "
                f"squares of {self.side}×{self.side}; use one of {able}"
            )
        return n // self.side**2

    def calibrate(self, features_bnd: Tensor, rms_length: float) -> None:
        """Fit fresh weights, as `Connector.calibrate` says, to the merged features."""
        self.mlp.calibrate(self.merged(features_bnd), rms_length)

    def merged(self, features_bnd: Tensor) -> Tensor:
        """Return what the perceptron sees: (b, n / merge_side², d), d grown by a `shuffle`."""
        b, n, d = features_bnd.shape
        m = self.tokens(n)
        rows = isqrt(m)
        squares = features_bnd.reshape(b, rows, self.side, rows, self.side, d).transpose(2, 3)
        return self.merge(squares.reshape(b, m, self.side**2, d))

    def forward(self, features_bnd: Tensor) -> Tensor:
        """Map features (b, n, d_vision) to embeddings (b, n / merge_side², d_language)."""
        projected: Tensor = self.mlp(self.merged(features_bnd))
        return projected
