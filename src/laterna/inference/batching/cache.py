"""A key-value cache whose rows are requests, each of its own length.

Shapes: r rows · t new tokens of a row · n new tokens of all rows · h heads · w columns looked at ·
d width · v vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

from laterna.inference.batching.flat import FlatAim, flat_aim, is_flat
from laterna.inference.batching.kept import States
from laterna.model.attention.shared_prefix import LEAK, LEAK_HALF, attention_window

STEP = 64
"""Rows are lengthened by multiples of this."""
WIDTHS = 8
"""Pieces of prompts are multiples of this; a step takes one at least."""


class Aim(Protocol):
    """Where one forward writes, and what it looks at."""

    @property
    def width(self) -> int:
        """Return the columns that are looked at."""
        ...

    def put(self, kept: Tensor, states: Tensor) -> Tensor:
        """Write new keys or values to a layer's; return what attention is handed."""
        ...


class PaddedAim(NamedTuple):
    """For rows (r, t) that are padded in front."""

    rows: slice | Tensor
    """Rows that take part."""
    width: int
    row_n: Tensor
    column_n: Tensor
    """Where each new token goes."""
    new_n: Tensor | None
    """Which of the (r, t) tokens, laid end to end, are new; None: all."""

    def put(self, kept: Tensor, states: Tensor) -> Tensor:
        """Write states (r, h, t, d); return those of the rows (r, h, w, d)."""
        new_nhd = states.transpose(1, 2).flatten(0, 1)
        kept[self.row_n, :, self.column_n] = (
            new_nhd if self.new_n is None else new_nhd.index_select(0, self.new_n)
        )
        return kept[self.rows, :, : self.width]


class SlotLayer(CacheLayerMixin):  # type: ignore[misc]  # transformers is not typed
    """One layer's keys and values; every row has its own place to write at."""

    is_sliding = False

    def __init__(self, slots: SlotCache) -> None:
        super().__init__()
        self._slots = slots

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Make room as large as the cache says."""
        self.keys, self.values = map(self._room_like, (key_states, value_states))
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Write keys and values of new tokens; return those that are looked at."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        aim = self._slots.aim
        return aim.put(self.keys, key_states), aim.put(self.values, value_states)

    def resize(self, rows: int, used: int) -> None:
        """Take the cache's new size; the first `used` tokens of the first `rows` rows stay."""
        if not self.is_initialized:
            return
        for name in ("keys", "values"):
            kept = getattr(self, name)
            grown = self._room_like(kept)
            grown[:rows, :, :used] = kept[:rows, :, :used]
            setattr(self, name, grown)

    def _room_like(self, states: Tensor) -> Tensor:
        """Return zeros: what is masked must be finite."""
        slots = self._slots
        return states.new_zeros(slots.rows, states.shape[1], slots.length, states.shape[3])

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return how many columns are looked at, and where they begin."""
        del query_length  # its tokens are written before they are looked at
        return self._slots.aim.width, 0

    def get_seq_length(self) -> int:
        """Return how many columns are looked at."""
        return self._slots.aim.width

    def get_max_length(self) -> int:
        """Return the columns that there is room for."""
        return self._slots.length


class SlotCache(Cache):  # type: ignore[misc]  # transformers is not typed
    """Keys and values of up to `rows` requests of up to `length` tokens."""

    def __init__(self, layers: int) -> None:
        self.rows, self.length = 0, 0
        self.aim: Aim = _padded_aim([0], [0], [1], 1, torch.device("cpu"))
        super().__init__(layers=[SlotLayer(self) for _ in range(layers)])

    @property
    def token_bytes(self) -> int:
        """Return what a token takes; 0 before the first forward."""
        kept = [states for layer in self.layers if layer.is_initialized for states in _both(layer)]
        return sum(one.shape[1] * one.shape[3] * one.element_size() for one in kept)

    def reserve(self, rows: int, length: int, room: int, used: int = 0) -> None:
        """Make room for so many rows and tokens a row, at most `room` tokens in all.

        The first `used` tokens of each row but the last stay what they are. More rows than are
        asked for are made where they fit, so that they are made seldom.
        """
        if rows <= self.rows and length <= self.length:
            return
        before = self.length
        self.length = max(length, before if rows * before <= room else 0)
        spare = 1 << (rows - 1).bit_length() if self.length == before else rows
        choices = [rows, *(more for more in (self.rows, spare) if more * self.length <= room)]
        self.rows = max(choices)
        for layer in self.layers:
            layer.resize(rows - 1, used)

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` tokens of a row to another."""
        for layer in self.layers if length else ():
            for kept in _both(layer):
                kept[target, :, :length] = kept[source, :, :length]

    def swap(self, one: int, other: int, length: int) -> None:
        """Exchange the first `length` tokens of two rows."""
        for layer in self.layers if length else ():
            for kept in _both(layer):
                before = kept[one, :, :length].clone()
                kept[one, :, :length] = kept[other, :, :length]
                kept[other, :, :length] = before

    def read(self, row: int, length: int) -> States:
        """Return a copy of the first `length` tokens of a row."""
        return [
            (layer.keys[row, :, :length].clone(), layer.values[row, :, :length].clone())
            for layer in self.layers
        ]

    def write(self, row: int, states: States, length: int) -> None:
        """Write the first `length` tokens of what `read` returned to a row."""
        for layer, (keys, values) in zip(self.layers, states, strict=True):
            layer.keys[row, :, :length] = keys[:, :length]
            layer.values[row, :, :length] = values[:, :length]

    def forward(
        self,
        language: Any,
        embeds_nd: Tensor,
        rows: Sequence[int],
        written: Sequence[int],
        new: Sequence[int],
    ) -> Tensor:
        """Run new tokens behind those that rows hold; return the logits (r, v) at each row's last.

        Row number `rows[i]` holds `written[i]` tokens, and `new[i]` come behind them; those of all
        rows stand end to end in `embeds_nd`. They are run so where the network's attention can
        (`flat.py`), and else each in a row of its own.
        """
        if is_flat(language):
            return self._flat(language, embeds_nd, flat_aim(rows, written, new, embeds_nd))
        return self._padded(language, padded(embeds_nd, new), rows, written, new)

    def _flat(self, language: Any, embeds_nd: Tensor, aim: FlatAim) -> Tensor:
        self.aim = aim
        spare = wide(len(embeds_nd)) - len(embeds_nd) if aim.pieces else 0
        if spare:
            embeds_nd = torch.nn.functional.pad(embeds_nd, (0, 0, 0, spare))
        logits_1rv: Tensor = language(
            inputs_embeds=embeds_nd[None],
            attention_mask=aim.no_mask,
            position_ids=torch.nn.functional.pad(aim.column_n, (0, spare))[None],
            past_key_values=self,
            use_cache=True,
            logits_to_keep=aim.last_r,
            aim=aim,
        ).logits
        return logits_1rv[0]

    def _padded(
        self,
        language: Any,
        embeds_rtd: Tensor,
        rows: Sequence[int],
        written: Sequence[int],
        new: Sequence[int],
    ) -> Tensor:
        device = embeds_rtd.device
        tokens = embeds_rtd.shape[1]
        self.aim = _padded_aim(rows, written, new, tokens, device)
        ends = [start + count for start, count in zip(written, new, strict=True)]
        places_rt = (torch.tensor(ends)[:, None] + torch.arange(-tokens, 0)).clamp_min(0)
        mask = torch.zeros(len(ends), tokens, self.aim.width, dtype=embeds_rtd.dtype)
        if tokens > 1 or min(ends) < self.aim.width:
            hidden_rtw = torch.arange(self.aim.width) > places_rt[:, :, None]
            mask.masked_fill_(hidden_rtw, torch.finfo(mask.dtype).min)
        logits_rtv: Tensor = language(
            inputs_embeds=embeds_rtd,
            attention_mask=mask[:, None].to(device),
            position_ids=places_rt.to(device),
            past_key_values=self,
            use_cache=True,
            logits_to_keep=1,
        ).logits
        return logits_rtv[:, -1]


def _both(layer: Any) -> tuple[Tensor, Tensor]:
    return layer.keys, layer.values


def _padded_aim(
    rows: Sequence[int],
    written: Sequence[int],
    new: Sequence[int],
    tokens: int,
    device: torch.device,
) -> PaddedAim:
    row_n: list[int] = []
    column_n: list[int] = []
    new_n: list[int] = []
    for place, (row, start, count) in enumerate(zip(rows, written, new, strict=True)):
        row_n += [row] * count
        column_n += range(start, start + count)
        new_n += range((place + 1) * tokens - count, (place + 1) * tokens)
    adjoin = list(rows) == list(range(rows[0], rows[0] + len(rows)))
    return PaddedAim(
        rows=slice(rows[0], rows[0] + len(rows)) if adjoin else torch.tensor(rows).to(device),
        width=max(start + count for start, count in zip(written, new, strict=True)),
        row_n=torch.tensor(row_n).to(device),
        column_n=torch.tensor(column_n).to(device),
        new_n=None if len(new_n) == len(rows) * tokens else torch.tensor(new_n).to(device),
    )


def padded(embeds_nd: Tensor, new: Sequence[int]) -> Tensor:
    """Return tokens (n, d) of rows that have so many as rows (r, t, d), padded in front."""
    if max(new) == 1:
        return embeds_nd[:, None]
    padded_rtd = embeds_nd.new_zeros(len(new), wide(max(new)), embeds_nd.shape[1])
    for padded_td, row in zip(padded_rtd, torch.split(embeds_nd, list(new)), strict=True):
        padded_td[len(padded_td) - len(row) :] = row
    return padded_rtd


def wide(tokens: int) -> int:
    """Return the width that so many tokens are given: one of few, since some kernels are compiled
    for each.
    """
    return tokens if tokens < WIDTHS else -(-tokens // WIDTHS) * WIDTHS


def rounded(length: int) -> int:
    """Return the columns that a row of `length` tokens is given."""
    return -(-length // STEP) * STEP


def usual_bytes(device: torch.device) -> int:
    """Return what a cache may take unless told otherwise."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free) // 2
    return 2 * 2**30


def probe(language: Any) -> tuple[str, int]:
    """Say why a language model's cache cannot be driven row by row (empty: it can), and what a
    token takes in it, in bytes.

    Its configuration is asked, and then it is tried, once: two rows of different lengths, written
    in pieces, must give the logits that each gives alone and whole.
    """
    why = _refused_by_config(language.config)
    if why:
        return why, 0
    cache = SlotCache(language.config.get_text_config().num_hidden_layers)
    try:
        apart, limit = _tried(language, cache)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as e:
        return f"it failed when it was tried ({type(e).__name__}: {str(e)[:120]})", 0
    if apart <= limit:
        return "", cache.token_bytes
    return f"its logits differ by {apart:.1%} from those without a cache", 0


def _refused_by_config(config: Any) -> str:
    text = config.get_text_config()
    window = attention_window(config)
    kinds = set(getattr(text, "layer_types", None) or ()) - {"full_attention"}
    if config.is_encoder_decoder:
        return "it is an encoder with a decoder"
    if window is not None:
        return f"some of its layers look back {window:,} tokens only"
    if kinds:
        return f"it has layers of other kinds than full attention ({', '.join(sorted(kinds))})"
    if not getattr(text, "num_hidden_layers", 0):
        return "its configuration does not say how many layers it has"
    return ""


@torch.no_grad()
def _tried(language: Any, cache: SlotCache) -> tuple[float, float]:
    """Return the largest difference as a share of the largest logit, and what is borne."""
    table = language.get_input_embeddings().weight
    noise = torch.Generator().manual_seed(0)
    drawn = torch.randn(2, 9, table.shape[1], generator=noise).to(table) * table.float().std()
    long, short = drawn[:1], drawn[1:, :6]
    cache.reserve(2, 16, 32)
    cache.forward(language, long[0, :5], [1], [0], [5])
    cache.forward(language, short[0, :4], [0], [0], [4])
    given = [
        cache.forward(language, torch.cat([short[0, 4:5], long[0, 5:8]]), [0, 1], [4, 5], [1, 3]),
        cache.forward(language, torch.cat([short[0, 5:], long[0, 8:]]), [0, 1], [5, 8], [1, 1]),
    ]
    whole = [language(inputs_embeds=row, use_cache=False).logits[0] for row in (short, long)]
    wanted = [torch.stack([whole[0][at], whole[1][at + 3]]) for at in (4, 5)]
    apart = (torch.stack(given) - torch.stack(wanted)).abs().max() / torch.stack(wanted).abs().max()
    return float(apart), LEAK if table.dtype == torch.float32 else LEAK_HALF
