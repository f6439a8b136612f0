"""What every connector is."""

from __future__ import annotations

from torch import nn


class Connector(nn.Module):
    """Maps vision features (b, n, d_vision) to language embeddings (b, m, d_language).

    A connector is built from `(settings, d_vision, d_language)` and draws its first weights from
    torch's generator, which the caller seeds.
    """

    def tokens(self, n: int) -> int:
        """Return how many tokens (m) a picture of `n` features becomes, before running."""
        raise NotImplementedError
