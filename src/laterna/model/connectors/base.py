"""What every connector is."""

from __future__ import annotations

from typing import ClassVar, Protocol

from torch import nn

from laterna.recipe import ConnectorSettings


class Connector(nn.Module):
    """Maps vision features (b, n, d_vision) to language embeddings (b, m, d_language).

    A connector is built from `(settings, d_vision, d_language)` and draws its first weights from
    torch's generator, which the caller seeds.
    """

    uses: ClassVar[frozenset[str]] = frozenset()
    """The settings, besides `kind`, that mean something to it; others are refused."""

    def tokens(self, n: int) -> int:
        """Return how many tokens (m) a picture of `n` features becomes, before running.

        Raises LaternaError when pictures of `n` features are none that it can take.
        """
        raise NotImplementedError

    def initialise(self, settings: ConnectorSettings) -> None:
        """Take first weights from `settings.source`, in connectors that use it.

        Raises LaternaError when they are missing or of another shape.
        """


class ConnectorKind(Protocol):
    """A connector's class: what it uses, and how one is made."""

    uses: frozenset[str]

    def __call__(self, settings: ConnectorSettings, d_vision: int, d_language: int, /) -> Connector:
        """Build one, its weights drawn from torch's generator."""
        ...
