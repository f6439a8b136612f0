"""Attention of one sequence to another, as Flamingo's resampler and gated blocks have it.

Shapes: b batch · q queries · k keys · d width · h heads · e width of a head.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention, silu

from laterna.recipe import Form
from laterna.records import SharedPrefix

KeysValues = tuple[Tensor, Tensor]
"""Keys and values (b, h, k, e)."""


class CrossAttention(nn.Module):
    """`heads` heads of `head_width`, without biases and without norms before it.

    `qk_norm` makes the norm over a head's width that queries and keys go through (IDEFICS).
    """

    def __init__(
        self,
        d_query: int,
        d_keys: int,
        *,
        heads: int,
        head_width: int,
        qk_norm: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        inner = heads * head_width
        self.head_width = head_width
        self.q_proj = nn.Linear(d_query, inner, bias=False)
        self.k_proj = nn.Linear(d_keys, inner, bias=False)
        self.v_proj = nn.Linear(d_keys, inner, bias=False)
        self.o_proj = nn.Linear(inner, d_query, bias=False)
        self.q_norm = qk_norm(head_width) if qk_norm else nn.Identity()
        self.k_norm = qk_norm(head_width) if qk_norm else nn.Identity()

    def keys_values(self, context_bkd: Tensor) -> KeysValues:
        """Return the keys and values (b, h, k, e) of a context (b, k, d)."""
        keys = self.k_norm(self._heads(self.k_proj(context_bkd)))
        return keys, self._heads(self.v_proj(context_bkd))

    def forward(
        self, queries_bqd: Tensor, keys_values: KeysValues, mask_b1qk: Tensor | None = None
    ) -> Tensor:
        """Return what the queries attend to (b, q, d); `mask_b1qk` is true where they may."""
        query = self.q_norm(self._heads(self.q_proj(queries_bqd)))
        keys, values = (one.to(query.dtype) for one in keys_values)
        mixed = scaled_dot_product_attention(query, keys, values, mask_b1qk)
        output: Tensor = self.o_proj(mixed.transpose(1, 2).flatten(2))
        return output

    def _heads(self, states: Tensor) -> Tensor:
        return states.view(*states.shape[:2], -1, self.head_width).transpose(1, 2)


def feed_forward(width: int, inner: int, form: Form) -> nn.Sequential:
    """Return Flamingo's feed-forward layers, their norm in front; `idefics` has ReLU."""
    return nn.Sequential(
        nn.LayerNorm(width),
        nn.Linear(width, inner, bias=False),
        nn.GELU() if form == "flamingo" else nn.ReLU(),
        nn.Linear(inner, width, bias=False),
    )


class GatedMlp(nn.Module):
    """Llama's feed-forward layers, as IDEFICS and Idefics2 have them; without their norm."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, states: Tensor) -> Tensor:
        """Map states to states of the same width."""
        mapped: Tensor = self.down_proj(silu(self.gate_proj(states)) * self.up_proj(states))
        return mapped


def last_images(marks_rt: Tensor, position_ids_rt: Tensor, sharing: SharedPrefix | None) -> Tensor:
    """Return the number of the image that each token sees (r, t): the last at or before it.

    `marks_rt` is true at images' positions; images are numbered through the batch from 1, and 0 is
    none. A token sees no image of another sample of its row; where samples share an image, it sees
    that one, or a later one of its own.
    """
    if sharing is None:
        blocks_rt = (position_ids_rt == 0).cumsum(dim=1)
        shared_rt = blocks_rt
    else:
        blocks_rt, shared_rt = sharing.segment_ids_rt, sharing.attends_to_rt
    numbers_rt = marks_rt.flatten().cumsum(dim=0).view_as(marks_rt) * marks_rt
    latest_rt = numbers_rt.cummax(dim=1).values
    # The last image of each block; numbers rise along a row, so what exceeds all that stood before
    # a block is its own.
    count = int(blocks_rt.max()) + 1
    of_block = numbers_rt.new_zeros(len(numbers_rt), count)
    of_block = of_block.scatter_reduce(1, blocks_rt, numbers_rt, "amax")
    before_block = pad(of_block, (1, 0))[:, :-1].cummax(dim=1).values
    own_rt = latest_rt * (latest_rt > before_block.gather(1, blocks_rt))
    foreign_rt = of_block.gather(1, shared_rt) * (shared_rt != blocks_rt)
    return torch.where(own_rt > 0, own_rt, foreign_rt)
