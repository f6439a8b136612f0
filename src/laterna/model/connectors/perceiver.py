"""A perceiver resampler: learned latents that attend to the features, layer by layer.

The layers are those of Idefics2 (`Idefics2PerceiverResampler` of transformers, which can hold
their weights); that class is not among transformers' public ones, so they are written here from
torch's own pieces. Flamingo's resampler also embeds the time of a video's frames; here an image
is one frame, so there is none.

Shapes: b images · n patches · m latents · d width · h heads.
"""

from __future__ import annotations

from math import isqrt
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from laterna.errors import LaternaError
from laterna.model.attention.cross import GatedMlp
from laterna.model.connectors.base import Connector
from laterna.recipe import ConnectorSettings

QUERIES = 64
BLOCKS = 3
HEAD_WIDTH = 96
WIDTH_A_HEAD = 256
HEADS_A_KEY = 4
"""Idefics2: 64 latents, 3 blocks; 16 heads of 96 at width 4096, four of them sharing a key."""
EPSILON = 1e-6


class PerceiverConnector(Connector):
    """One linear layer to the language model's width, 2-D position embeddings, a resampler.

    Any number of features becomes `queries` tokens.
    """

    uses: ClassVar[frozenset[str]] = frozenset({"blocks", "queries"})

    def __init__(self, settings: ConnectorSettings, d_vision: int, d_language: int) -> None:
        """Raise LaternaError for less than one latent or block, or a width not divisible by 4."""
        super().__init__()
        if d_language % 4:
            raise LaternaError(
                f"connector.kind = 'perceiver': its position embeddings need a width that is "
                f"a multiple of 4, but the language model's is {d_language}; use another kind"
            )
        self.project = nn.Linear(d_vision, d_language)
        self.resampler = Resampler(
            d_language,
            latents=settings.count("queries", default=QUERIES),
            blocks=settings.count("blocks", default=BLOCKS),
        )

    def tokens(self, n: int) -> int:
        """Return how many tokens an image becomes: one a latent, whatever `n`."""
        del n
        return len(self.resampler.latents)

    def forward(self, features_bnd: Tensor) -> Tensor:
        """Map features (b, n, d_vision) to embeddings (b, m, d_language)."""
        context = self.project(features_bnd)
        resampled: Tensor = self.resampler(context + positions(context.shape[1], context))
        return resampled


def positions(n: int, like: Tensor) -> Tensor:
    """Return position embeddings (n, d), sines and cosines; d and dtype as in `like`.

    Half of them encode the row and half the column of a square of patches. Features that fill no
    square, such as those with a class token, are encoded by their number alone.
    """
    grid = isqrt(n)
    number = torch.arange(n, device=like.device)
    squared = grid * grid == n
    axes = [number // grid, number % grid] if squared else [number]
    width = like.shape[-1] // (2 * len(axes))
    frequencies = 10000.0 ** (-torch.arange(width, device=like.device) / width)
    angles = [axis[:, None] * frequencies for axis in axes]
    waves = [wave for angle in angles for wave in (angle.sin(), angle.cos())]
    return torch.cat(waves, dim=-1).to(like.dtype)


class Resampler(nn.Module):
    """Latents that attend to a context and themselves in every block: (b, n, d) to (b, m, d)."""

    def __init__(self, width: int, *, latents: int, blocks: int) -> None:
        super().__init__()
        # Idefics2 starts with ones, but equal latents would stay equal.
        self.latents = nn.Parameter(torch.randn(latents, width) * 0.02)
        self.layers = nn.ModuleList(_Block(width) for _ in range(blocks))
        self.norm = nn.RMSNorm(width, eps=EPSILON)

    def forward(self, context_bnd: Tensor) -> Tensor:
        """Return the latents after all blocks: (b, m, d)."""
        latents_bmd = self.latents.expand(len(context_bnd), -1, -1)
        for layer in self.layers:
            latents_bmd = layer(latents_bmd, context_bnd)
        found: Tensor = self.norm(latents_bmd)
        return found


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.input_latents_norm = nn.RMSNorm(width, eps=EPSILON)
        self.input_context_norm = nn.RMSNorm(width, eps=EPSILON)
        self.self_attn = _Attention(width)
        self.post_attention_layernorm = nn.RMSNorm(width, eps=EPSILON)
        self.mlp = GatedMlp(width, 4 * width)

    def forward(self, latents_bmd: Tensor, context_bnd: Tensor) -> Tensor:
        queries = self.input_latents_norm(latents_bmd)
        context = torch.cat([self.input_context_norm(context_bnd), queries], dim=1)
        latents_bmd = latents_bmd + self.self_attn(queries, context)
        after: Tensor = latents_bmd + self.mlp(self.post_attention_layernorm(latents_bmd))
        return after


class _Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = max(1, width // WIDTH_A_HEAD)
        shared = self.heads % HEADS_A_KEY == 0  # else too few or too odd to share
        keys = self.heads // HEADS_A_KEY if shared else self.heads
        self.q_proj = nn.Linear(width, self.heads * HEAD_WIDTH, bias=False)
        self.k_proj = nn.Linear(width, keys * HEAD_WIDTH, bias=False)
        self.v_proj = nn.Linear(width, keys * HEAD_WIDTH, bias=False)
        self.o_proj = nn.Linear(self.heads * HEAD_WIDTH, width, bias=False)

    def forward(self, queries_bmd: Tensor, context_bnd: Tensor) -> Tensor:
        query, key, value = (
            states.unflatten(-1, (-1, HEAD_WIDTH)).transpose(1, 2)
            for states in (
                self.q_proj(queries_bmd),
                self.k_proj(context_bnd),
                self.v_proj(context_bnd),
            )
        )
        mixed = scaled_dot_product_attention(query, key, value, enable_gqa=True)
        out: Tensor = self.o_proj(mixed.transpose(1, 2).flatten(2))
        return out
