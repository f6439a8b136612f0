"""Attention for rows of several samples on a CPU: segment by segment, so that nothing is masked.

Block masks skip masked pairs on a GPU only. On a CPU they are computed: a row of twelve samples
computes twelve times the scores that it needs. Here every segment of a row (a sample, or what
several share) attends to its own keys and those that it shares, and to no other. So a micro-batch
can be one row without padding, at no more than the cost of its samples.

Shapes: r rows · h heads · t tokens of a row · d width of a head.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from laterna.errors import LaternaError
from laterna.records import SharedPrefix

SEGMENTS = "laterna_segments"
"""Its name among transformers' attention implementations."""
_ROOM = 256
"""Masks are cut from a few large ones, whose sides are multiples of this."""
MOST_PAIRS = 1024 * 1024
"""Of tokens in a segment whose scores are kept whole; beyond, memory counts more than time."""
BEYOND = ("softcap", "s_aux", "position_bias")
"""What some models add to attention beyond scaled dot products."""
LIST = torch.int32
"""Dtype of a list of segments: the masks that transformers makes are bool or float."""


def use_varlen_attention(language: Any) -> None:
    """Let a Hugging Face model attend segment by segment where it is given `segment_list`.

    Everywhere else, as when it answers, it attends as under `sdpa`.
    """
    AttentionInterface.register(SEGMENTS, _attend)
    AttentionMaskInterface.register(SEGMENTS, sdpa_mask)
    language.set_attn_implementation(SEGMENTS)


def segment_list(sharing: SharedPrefix | None, position_ids_rt: Tensor) -> Tensor:
    """Return the segments of a batch's rows, laid end to end: int32 (1, 1, segments, 2).

    Each has its length and the number of the other segment that it sees, or its own. Without
    `sharing` a segment begins wherever positions restart. It is passed as the attention mask:
    transformers leaves whatever has four axes unchanged.
    """
    if sharing is None:
        segment_ids_rt = (position_ids_rt == 0).cumsum(1)
        attends_to_rt = segment_ids_rt
    else:
        segment_ids_rt, attends_to_rt = sharing.segment_ids_rt, sharing.attends_to_rt
    begins = torch.ones_like(segment_ids_rt, dtype=torch.bool)
    begins[:, 1:] = segment_ids_rt[:, 1:] != segment_ids_rt[:, :-1]
    rows, starts = begins.nonzero(as_tuple=True)
    blocks, sees = segment_ids_rt[rows, starts].tolist(), attends_to_rt[rows, starts].tolist()
    numbers = {key: number for number, key in enumerate(zip(rows.tolist(), blocks, strict=True))}
    seen = [numbers[key] for key in zip(rows.tolist(), sees, strict=True)]
    flat = rows * segment_ids_rt.shape[1] + starts
    ends = torch.cat([flat[1:], torch.tensor([segment_ids_rt.numel()])])
    return torch.stack([ends - flat, torch.tensor(seen)], dim=1).to(LIST)[None, None]


def count_pairs(segments: Tensor) -> int:
    """Return how many pairs of tokens are computed, masked or not."""
    lengths, seen = segments[0, 0].long().unbind(1)
    others = torch.where(seen == torch.arange(len(seen)), 0, lengths[seen])
    return int((lengths * (lengths + others)).sum())


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attend as transformers' implementations do: (r, h, t, d) to (r, t, h, d)."""
    beyond = [name for name in BEYOND if others.get(name) is not None]
    if beyond:
        raise LaternaError(
            f"run.attention = 'varlen' cannot compute what this language model's attention adds "
            f"to its scores ({', '.join(beyond)}); set run.attention = 'sdpa'"
        )
    if attention_mask is None or attention_mask.dtype != LIST:
        output: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **others
        )
        return output
    rows, heads, tokens, _ = query.shape
    groups = heads // key.shape[1]
    kind = query.device.type
    if torch.is_autocast_enabled(kind):  # rotary positions have left queries and keys in float32
        dtype = torch.get_autocast_dtype(kind)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    lengths, seen = attention_mask[0, 0].long().unbind(1)
    sizes: list[int] = lengths.tolist()
    # Splitting has a backward pass that joins; slices would each leave a gradient of full size.
    queries, keys, values = (
        torch.split(_end_to_end(one), sizes, dim=2) for one in (query, key, value)
    )
    window: int | None = others.get("sliding_window")  # given by models whose layer has one
    attended = []
    for number, other in enumerate(seen.tolist()):
        alone = other == number
        k, v = (
            one[number] if alone else torch.cat([one[other], one[number]], dim=2)
            for one in (keys, values)
        )
        before = 0 if alone else sizes[other]
        attended.append(_behind_all(queries[number], k, v, before, window, dropout, scaling))
    joined = torch.cat([one.transpose(1, 2) for one in attended], dim=1)
    return joined.reshape(rows, tokens, heads, -1), None


def _behind_all(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    before: int,
    window: int | None,
    dropout: float,
    scaling: float | None,
) -> Tensor:
    """Attend to `before` tokens that all of `q` see, then causally: (1, h, t, d)."""
    own = q.shape[2]
    narrow = window if window is not None and before + own > window else None
    if q.dtype is torch.bfloat16 and not dropout and own * (before + own) <= MOST_PAIRS:
        return by_products(q, k, v, behind(before, own, narrow, q), scaling)
    plain = not before and narrow is None
    mask = None if plain else behind(before, own, narrow, q)
    return scaled_dot_product_attention(q, k, v, mask, dropout, is_causal=plain, scale=scaling)


def by_products(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scaling: float | None) -> Tensor:
    """Attend by two matrix products and a softmax: (1, h, t, d).

    On a CPU the backward pass of torch's fused attention takes about twice as long as this in
    bfloat16, and many times as long for segments of 60 tokens (benchmarks/results).
    """
    scale = q.shape[-1] ** -0.5 if scaling is None else scaling
    mask_hts = mask.expand(q.shape[1], *mask.shape)
    scores_hts = torch.baddbmm(mask_hts, q[0], k[0].transpose(1, 2), alpha=scale)
    return torch.bmm(scores_hts.softmax(-1).to(v.dtype), v[0])[None]


def _end_to_end(states_rhtd: Tensor) -> Tensor:
    """Lay rows end to end: (1, h, r · t, d)."""
    return states_rhtd.transpose(0, 1).flatten(1, 2)[None]


def behind(before: int, own: int, window: int | None, like: Tensor) -> Tensor:
    """Return what is added to the scores (own, before + own) of tokens behind what all see.

    With a `window` a token sees the last that many tokens, itself among them.
    """
    room, largest = (-(-size // _ROOM) * _ROOM for size in (before, own))
    mask = _staircase(room, largest, window, like.dtype, like.device)
    return mask[:own, room - before : room + own]


@lru_cache(maxsize=8)
def _staircase(
    before: int, own: int, window: int | None, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Return a large mask, from which `_behind` cuts smaller ones."""
    hidden = torch.ones(own, before + own, dtype=torch.bool, device=device).triu(before + 1)
    if window is not None:
        hidden |= torch.ones_like(hidden).tril(before - window)
    return torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill_(
        hidden, torch.finfo(dtype).min
    )
