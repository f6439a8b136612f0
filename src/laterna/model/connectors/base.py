"""What every connector is."""

from __future__ import annotations

from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from laterna.recipe import ConnectorSettings


class Connector(nn.Module):
    """Maps vision features (b, n, d_vision) to language embeddings (b, m, d_language).

    A connector is built from `(settings, d_vision, d_language)` and draws its first weights from
    torch's generator, which the caller seeds.
    """

    uses: ClassVar[frozenset[str]] = frozenset()
    """The settings, besides `kind`, that mean something to it; others are refused."""
    is_map: ClassVar[bool] = False
    """Whether the tokens of a picture are a square map of it in reading order, which is what
    AnyRes joins."""
    image_newline: nn.Parameter | None
    """AnyRes: the vector (d_language) that ends each row of a tiled picture; learned with the
    connector, and one of its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.register_parameter("image_newline", None)

    def add_newline(self, d_language: int) -> None:
        """Add a newline, drawn from torch's generator as wide as LLaVA-NeXT's."""
        self.image_newline = nn.Parameter(torch.randn(d_language) / d_language**0.5)

    def tokens(self, n: int) -> int:
        """Return how many tokens (m) a picture of `n` features becomes, before running.

        Raises LaternaError when pictures of `n` features are none that it can take.
        """
        raise NotImplementedError

    def initialise(self, settings: ConnectorSettings) -> None:
        """Take first weights from `settings.source`, in connectors that use it.

        Raises LaternaError when they are missing or of another shape.
        """

    def calibrate(self, features_bnd: Tensor, length: float) -> None:
        """Fit fresh weights to features (b, n, d_vision) and to embeddings of a mean length.

        Only connectors that use the setting `calibrate` can.
        """
        raise NotImplementedError


class ConnectorKind(Protocol):
    """A connector's class: what it uses, and how one is made."""

    uses: frozenset[str]

    def __call__(self, settings: ConnectorSettings, d_vision: int, d_language: int, /) -> Connector:
        """Build one, its weights drawn from torch's generator."""
        ...
