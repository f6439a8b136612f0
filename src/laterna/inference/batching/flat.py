"""One forward for tokens and pieces of prompts, laid end to end: nothing is padded, and the weights
are read once for all of them.

Each row's attention is asked on its own; all else of a language model sees tokens, not rows.

Shapes: r rows · n new tokens of all rows · h heads · k heads of keys · g heads that share one ·
l columns of the cache · w columns looked at · d width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from laterna.model.attention.varlen import BEYOND, SEGMENTS, behind

FLAT = "laterna_flat"
"""The attention's name among transformers' implementations."""


class Piece(NamedTuple):
    """Some of the new tokens: those of one row."""

    row: int
    first: int
    after: int
    """Where they stand among the new: from `first` up to, not including, `after`."""
    before: int
    """Tokens that the row held before."""


class FlatAim(NamedTuple):
    """Where one forward writes, and what each row looks at."""

    singles: slice
    """Rows whose one new token stands first, in their order."""
    width: int
    """Columns that those look at."""
    mask: Tensor | None
    """What is added to their scores (r, 1, 1, w); None: nothing, all are equally long."""
    pieces: tuple[Piece, ...]
    """Those of the other rows."""
    only: Piece | None
    """The one row's, where there is one."""
    row_n: Tensor
    column_n: Tensor
    """Where each new token goes."""
    last_r: Tensor
    """Where each row's last token stands among the new."""
    no_mask: Tensor
    """Stands in the place of a mask: transformers hands on as it is whatever has four axes."""

    def put(self, kept: Tensor, states: Tensor) -> Tensor:
        """Write states (1, h, n, d) to a layer's (r, h, l, d), and return all of those."""
        if self.only is not None:
            row, _, count, before = self.only
            kept[row, :, before : before + count] = states[0, :, :count]
        else:
            kept[self.row_n, :, self.column_n] = states[0].transpose(0, 1)[: len(self.row_n)]
        return kept


def flat_aim(
    rows: Sequence[int], written: Sequence[int], new: Sequence[int], like: Tensor
) -> FlatAim:
    """Say where tokens go of rows that hold `written` ones, and how many are `new` in each."""
    singles = 0
    while singles < len(rows) and new[singles] == 1 and rows[singles] == rows[0] + singles:
        singles += 1
    pieces: list[Piece] = []
    row_n: list[int] = []
    column_n: list[int] = []
    for row, before, count in zip(rows, written, new, strict=True):
        pieces.append(Piece(row, len(row_n), len(row_n) + count, before))
        row_n += [row] * count
        column_n += range(before, before + count)
    width = max(written[:singles], default=-1) + 1
    mask = None
    if singles and min(written[:singles]) + 1 < width:
        hidden_rw = torch.arange(width) > torch.tensor(written[:singles])[:, None]
        mask = torch.zeros(hidden_rw.shape, dtype=like.dtype)
        mask.masked_fill_(hidden_rw, torch.finfo(like.dtype).min)
    return FlatAim(
        singles=slice(rows[0], rows[0] + singles),
        width=width,
        mask=None if mask is None else mask[:, None, None].to(like.device),
        pieces=tuple(pieces[singles:]),
        only=pieces[0] if len(pieces) == 1 else None,
        row_n=torch.tensor(row_n).to(like.device),
        column_n=torch.tensor(column_n).to(like.device),
        last_r=torch.tensor([piece.after - 1 for piece in pieces]).to(like.device),
        no_mask=like.new_zeros(1, 1, 1, 1),
    )


def can_attend_flat(language: Any) -> bool:
    """Say whether a language model attends by scaled dot products, as `attend_flat` needs."""
    config = getattr(language, "config", None)
    return config is not None and config._attn_implementation in ("sdpa", SEGMENTS)


def attend_flat(language: Any) -> None:
    """Let such a model attend row by row where it is given a `FlatAim`, and else as before."""
    AttentionInterface.register(FLAT, _attend)
    AttentionMaskInterface.register(FLAT, sdpa_mask)
    language.set_attn_implementation(FLAT)


def is_flat(language: Any) -> bool:
    """Say whether a language model takes a `FlatAim`."""
    return bool(language.config._attn_implementation == FLAT)


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    aim: FlatAim | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attend as transformers' implementations do: (1, h, n, d) to (1, n, h, d).

    Keys and values are the cache's own (r, k, l, d), which no head copies.
    """
    if aim is None:
        given: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **others
        )
        return given
    if added := [name for name in BEYOND if others.get(name) is not None]:
        raise ValueError(f"scaled dot products lack {', '.join(added)}")
    tokens = query.shape[2]
    found = [_singles(query, key, value, aim, scaling)] if aim.width else []
    found += [_piece(query, key, value, piece, scaling) for piece in aim.pieces]
    done = sum(one.shape[1] for one in found)
    if done < tokens:  # padding behind them, which nobody looks at
        found.append(found[0].new_zeros(1, tokens - done, *found[0].shape[2:]))
    return torch.cat(found, dim=1) if len(found) > 1 else found[0], None


def _singles(
    query: Tensor, key: Tensor, value: Tensor, aim: FlatAim, scaling: float | None
) -> Tensor:
    """Return what the first tokens (1, r, h, d) see: each its own row, all at once."""
    count, heads, shared = aim.singles.stop - aim.singles.start, query.shape[1], key.shape[1]
    query_rhd = query[0, :, :count].transpose(0, 1)
    attended_rkgd = scaled_dot_product_attention(
        query_rhd.reshape(count, shared, heads // shared, -1),
        key[aim.singles, :, : aim.width],
        value[aim.singles, :, : aim.width],
        aim.mask,
        scale=scaling,
    )
    return attended_rkgd.reshape(1, count, heads, -1)


def _piece(
    query: Tensor, key: Tensor, value: Tensor, piece: Piece, scaling: float | None
) -> Tensor:
    """Return what the tokens of a piece (1, n, h, d) see: their row, up to themselves."""
    row, first, after, before = piece
    own = after - first
    attended = scaled_dot_product_attention(
        query[:, :, first:after],
        key[row : row + 1, :, : before + own],
        value[row : row + 1, :, : before + own],
        behind(before, own, None, query) if before else None,
        is_causal=not before,
        scale=scaling,
        enable_gqa=query.shape[1] > key.shape[1],
    )
    return attended.transpose(1, 2)
