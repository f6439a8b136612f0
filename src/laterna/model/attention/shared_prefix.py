"""Rows whose samples share an image, and the check that samples of a row do not see each other.

Shapes: d width · r rows · t tokens of a row.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from laterna.errors import LaternaError, one_line
from laterna.model.attention.varlen import SEGMENTS, segment_list
from laterna.records import Batch, SharedPrefix

FLEX = "flex_attention"
"""transformers' name of the attention that takes block masks."""
FLASH = "flash_attention_2"
"""Of the one that takes no mask, and keeps samples apart in batches of one row only."""
LEAK, LEAK_HALF = 1e-3, 0.05
"""Largest difference, as a share of the largest state, between a sample in a row and alone; and
the same where weights have 16 bits. Where another sample is seen, it is much larger."""


def visible(sharing: SharedPrefix) -> Tensor:
    """Return whether each token (second axis) sees each token (third): bool (r, t, t)."""
    blocks = sharing.segment_ids_rt
    own = blocks[:, :, None] == blocks[:, None, :]
    seen = sharing.attends_to_rt[:, :, None] == blocks[:, None, :]
    return (own | seen).tril()


def shared_prefix_mask(sharing: SharedPrefix | None, position_ids_rt: Tensor, language: Any) -> Any:
    """Return the attention mask of rows that share images; None for others.

    For flex attention it is a block mask, for `varlen` the list of all rows' segments; else a float
    one (r, 1, t, t) that is added to the scores, which sdpa and eager attention both take (eager
    takes no bool one).
    """
    if language.config._attn_implementation == SEGMENTS:
        return segment_list(sharing, position_ids_rt)
    if sharing is None:
        return None
    table = language.get_input_embeddings().weight
    if language.config._attn_implementation == FLEX:
        return _block_mask(sharing, table.device)
    seen = visible(sharing).to(table.device)
    mask = torch.zeros(seen.shape, dtype=table.dtype, device=table.device)
    return mask.masked_fill_(~seen, torch.finfo(table.dtype).min)[:, None]


@contextmanager
def plain_attention(language: Any) -> Iterator[None]:
    """Let a language model whose attention is for training on a GPU take any mask temporarily."""
    name = language.config._attn_implementation
    if name not in (FLEX, FLASH):
        yield
        return
    language.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        language.set_attn_implementation(name)


def wants_one_row(language: Any) -> bool:
    """Say whether a language model keeps packed samples apart only where a batch is one row."""
    return bool(language.config._attn_implementation == FLASH)


def before_targets(batch: Batch) -> Tensor:
    """Return the places (s), rows laid end to end, of the tokens that targets are predicted from.

    That is the token before; after a shared image it is the image's last, which is then here more
    than once. Take the states by `index_select`: indexing adds up the gradients of one place in an
    order that changes from run to run.
    """
    width = batch.loss_mask_rt.shape[1]
    places_s = batch.loss_mask_rt.flatten().nonzero()[:, 0]
    places_s = places_s[places_s % width > 0]
    if batch.sharing is None:
        return places_s - 1
    return places_s - places_s % width + batch.sharing.predicted_from_rt.flatten()[places_s]


def _block_mask(sharing: SharedPrefix, device: torch.device) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    blocks, sees = sharing.segment_ids_rt.to(device), sharing.attends_to_rt.to(device)

    def sees_it(row: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        own = blocks[row, query] == blocks[row, key]
        return (query >= key) & (own | (sees[row, query] == blocks[row, key]))

    rows, tokens = blocks.shape
    return create_block_mask(sees_it, rows, None, tokens, tokens, device=device)


_WINDOWS: dict[str, tuple[str, ...]] = {
    "sliding_attention": ("sliding_window",),
    "hybrid_sliding": ("sliding_window",),
    "chunked_attention": ("attention_chunk_size",),
    "indexed_attention": ("index_topk",),
    "compressed_sparse_attention": ("sliding_window", "index_topk"),
    "heavily_compressed_attention": ("sliding_window",),
    "local": ("window_size",),
}
"""transformers' name of a layer that does not see everything, to the keys of its window."""


def attention_windows(config: Any) -> set[int]:
    """Return the windows, in tokens, of the language model's layers that do not see all tokens.

    Gemma 2 and 3, Mistral 7B v0.1, Phi-3 mini and some Qwen2 have layers with a sliding window,
    Llama 4 has chunks, GPT-Neo local layers; DeepSeek V3.2 and Doge choose so many tokens.
    """
    text = config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ("sliding_attention", "chunked_attention"))
    kinds.update(getattr(text, "attention_layers", ()))
    if not getattr(text, "use_sliding_window", True):
        kinds.discard("sliding_attention")
    keys = {key for kind in kinds for key in _WINDOWS.get(kind, ())} | {"keep_window_size"}
    return {size for key in keys if (size := getattr(text, key, None))}


def attention_window(config: Any) -> int | None:
    """Return the smallest window of a language model's layers; None: all see everything."""
    return min(attention_windows(config), default=None)


@torch.no_grad()
def require_packing(language: Any, *, shared_prefix: bool) -> None:
    """Raise LaternaError when samples in one row are not what they are alone in this model.

    Two samples, and with `shared_prefix` two siblings behind a prefix, are run in one row, as
    `Fusion.hidden_states` does, and alone, by transformers' own attention. transformers keeps
    packed samples apart by their restarted positions only under conditions that nothing announces,
    and a leak, or a lost window, shows in no loss curve; so it is checked, once a stage. One sample
    is longer than the model's windows, if it has any.
    """
    table = language.get_input_embeddings().weight
    noise = torch.Generator().manual_seed(0)
    window = max(attention_windows(language.config), default=None)
    total = 11 + (window or 0)
    drawn = torch.randn(1, total, table.shape[1], generator=noise).to(table) * table.std()
    first, second = drawn[:, :5], drawn[:, 5:]
    alone = torch.cat([_alone(language, first), _alone(language, second)], dim=1)
    row = _states(language, drawn, positions=[*range(5), *range(total - 5)])
    in_half = table.dtype != torch.float32 or wants_one_row(language)
    limit = LEAK_HALF if in_half else LEAK
    _compare(row, alone, limit, "packed rows (pack_length)", window)
    if shared_prefix:
        prefix, one, two = drawn[:, :5], drawn[:, 5:8], drawn[:, 8:]
        siblings = [_alone(language, torch.cat([prefix, rest], dim=1)) for rest in (one, two)]
        alone = torch.cat([siblings[0], siblings[1][:, 5:]], dim=1)
        rest = total - 8
        sharing = SharedPrefix(
            segment_ids_rt=torch.tensor([[0] * 5 + [1] * 3 + [2] * rest]),
            attends_to_rt=torch.zeros(1, total, dtype=torch.long),
            predicted_from_rt=torch.zeros(1, total, dtype=torch.long),
        )
        positions = [*range(8), *range(5, 5 + rest)]
        row = _states(language, drawn, positions=positions, sharing=sharing)
        _compare(row, alone, limit, "shared images (shared_prefix)", window)


def _alone(language: Any, embeds_rtd: Tensor) -> Tensor:
    """Return a sample's states (1, t, d) by the model's own attention."""
    with plain_attention(language):
        return _tried(language, inputs_embeds=embeds_rtd, attention_mask=None)


def _states(
    language: Any, embeds_rtd: Tensor, positions: list[int], sharing: SharedPrefix | None = None
) -> Tensor:
    places = torch.tensor([positions])
    kind = embeds_rtd.device.type
    mask = shared_prefix_mask(sharing, places, language)
    with torch.autocast(kind, torch.bfloat16, enabled=wants_one_row(language)):
        return _tried(
            language,
            inputs_embeds=embeds_rtd,
            position_ids=places.to(embeds_rtd.device),
            attention_mask=mask,
        )


def _tried(language: Any, **inputs: Any) -> Tensor:
    """Return the states of a decoder; raises LaternaError where it takes no such inputs."""
    try:
        states: Tensor = language.get_decoder()(**inputs, use_cache=False).last_hidden_state
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise LaternaError(
            "packed rows (pack_length) and shared images (shared_prefix) cannot be used: this "
            f"language model failed when they were tried ({type(error).__name__}: "
            f"{one_line(error, 120)}); set run.attention = 'sdpa', or pack_length = 0 and "
            "shared_prefix = false"
        ) from error
    return states.float()


def _compare(row: Tensor, alone: Tensor, limit: float, what: str, window: int | None) -> None:
    apart = float((row - alone).abs().max() / alone.abs().max())
    if apart <= limit:
        return
    why = "the samples of a row see each other"
    if window is not None:
        why += f" or see more than the {window:,} tokens that some of its layers look back"
    raise LaternaError(
        f"{what} cannot be used: in this language model {why} (their states differ by "
        f"{apart:.1%} from those alone); set run.attention = 'varlen', or pack_length = 0 and "
        "shared_prefix = false, or use another version of transformers"
    )
