"""Flamingo's resampler: learned latents that attend to the features and to themselves.

The layers are OpenFlamingo's, and with `form = "idefics"` IDEFICS-9B's. An image is
one frame, so there are no embeddings of time.

Shapes: b images · n features · m latents · d width.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from laterna.model.attention.cross import CrossAttention, feed_forward
from laterna.model.connectors.base import Connector
from laterna.recipe import ConnectorSettings

QUERIES = 64
BLOCKS = 6
"""OpenFlamingo's and IDEFICS-9B's."""


class ResamplerConnector(Connector):
    """Latents through `blocks` layers at the encoder's width; any number of features becomes
    `queries` tokens.

    Under `fusion.kind = "cross_attention"` they keep that width. Where the language model takes
    another, as under `prefix`, one linear layer follows.
    """

    uses: ClassVar[frozenset[str]] = frozenset({"queries", "blocks", "heads", "head_width", "form"})

    def __init__(self, settings: ConnectorSettings, d_vision: int, d_language: int) -> None:
        """Raise LaternaError for less than one latent or block."""
        super().__init__()
        self.settings = settings
        queries = settings.count("queries", default=QUERIES)
        blocks = settings.count("blocks", default=BLOCKS)
        self.latents = nn.Parameter(torch.randn(queries, d_vision))
        self.layers = nn.ModuleList(_Layer(settings, d_vision) for _ in range(blocks))
        self.norm = nn.LayerNorm(d_vision)
        same = d_vision == d_language
        self.project = nn.Identity() if same else nn.Linear(d_vision, d_language)

    def tokens(self, n: int) -> int:
        """Return how many tokens an image becomes: one a latent, whatever `n`."""
        del n
        return len(self.latents)

    def forward(self, features_bnd: Tensor) -> Tensor:
        """Map features (b, n, d_vision) to tokens (b, m, d_language)."""
        latents_bmd = self.latents.expand(len(features_bnd), -1, -1)
        for layer in self.layers:
            latents_bmd = layer(latents_bmd, features_bnd)
        tokens: Tensor = self.project(self.norm(latents_bmd))
        return tokens


class _Layer(nn.Module):
    def __init__(self, settings: ConnectorSettings, width: int) -> None:
        super().__init__()
        self.features_norm = nn.LayerNorm(width)
        self.latents_norm = nn.LayerNorm(width)
        self.attention = CrossAttention(
            width,
            width,
            heads=settings.heads,
            head_width=settings.head_width,
            qk_norm=nn.LayerNorm if settings.form == "idefics" else None,
        )
        self.ff = feed_forward(width, 4 * width, settings.form)

    def forward(self, latents_bmd: Tensor, features_bnd: Tensor) -> Tensor:
        queries = self.latents_norm(latents_bmd)
        context = torch.cat([self.features_norm(features_bnd), queries], dim=1)
        latents_bmd = latents_bmd + self.attention(queries, self.attention.keys_values(context))
        after: Tensor = latents_bmd + self.ff(latents_bmd)
        return after
