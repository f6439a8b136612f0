"""Tokens of several rows, laid end to end: what each gives in a row of its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from laterna.inference.batching.cache import SlotCache, probe
from laterna.inference.batching.flat import FLAT, flat_aim, is_flat
from laterna.inference.batching.onednn import packed
from laterna.inference.engine import Engine
from laterna.inference.generation import generate_tokens
from laterna.inference.sampling import Decoding
from laterna.model.attention.varlen import SEGMENTS, use_varlen_attention
from laterna.model.vlm import VisionLanguageModel

from .conftest import PROMPTS, ids_of


def language() -> Any:
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config).eval()


@torch.no_grad()
@pytest.mark.parametrize("implementation", ["sdpa", SEGMENTS])
def test_rows_end_to_end_give_what_each_gives_alone(implementation: str) -> None:
    plain = language()
    if implementation == SEGMENTS:
        use_varlen_attention(plain)
    twin = packed(plain, 10**6)
    assert twin.config._attn_implementation == FLAT and is_flat(twin)
    assert plain.config._attn_implementation == implementation and not is_flat(plain)
    embeds = torch.randn(4, 12, 48)
    wanted = plain(inputs_embeds=embeds, use_cache=False).logits
    for network in (twin, plain):
        cache = SlotCache(2)
        cache.reserve(4, 16, 64)
        for rows, written, new in (
            ([2], [0], [9]),
            ([0, 1], [0, 0], [5, 3]),
            ([0, 1, 3, 2], [5, 3, 0, 9], [1, 1, 4, 2]),  # 8 tokens: two rows together, two alone
            ([0, 1, 3], [6, 4, 4], [1, 1, 4]),  # 6, and no padding
            ([3, 0], [8, 7], [4, 5]),  # 9, and 7 of padding
            ([1, 2], [5, 11], [1, 1]),  # together, one of them longer
            ([1], [6], [1]),
        ):
            taken = zip(rows, written, new, strict=True)
            pieces = [embeds[row, start : start + count] for row, start, count in taken]
            given = cache.forward(network, torch.cat(pieces), rows, written, new)
            taken = zip(rows, written, new, strict=True)
            last = torch.stack([wanted[row, start + count - 1] for row, start, count in taken])
            torch.testing.assert_close(given, last, atol=1e-5, rtol=1e-5)
    assert probe(twin)[0] == probe(plain)[0] == ""


def test_rows_with_one_token_are_asked_together() -> None:
    aim = flat_aim([3, 4, 6, 7], [5, 2, 8, 0], [1, 1, 1, 4], torch.ones(1))
    assert aim.singles == slice(3, 5) and aim.width == 6 and aim.only is None
    assert aim.pieces == ((6, 2, 3, 8), (7, 3, 7, 0))
    assert aim.row_n.tolist() == [3, 4, 6, 7, 7, 7, 7]
    assert aim.column_n.tolist() == [5, 2, 8, 0, 1, 2, 3]
    assert aim.last_r.tolist() == [0, 1, 2, 6]
    assert aim.mask is not None
    assert (aim.mask[:, 0, 0] == 0).tolist() == [[True] * 6, [True] * 3 + [False] * 3]
    equal = flat_aim([0, 1], [4, 4], [1, 1], torch.ones(1))
    assert equal.mask is None and equal.width == 5 and equal.pieces == ()


def test_a_model_that_takes_no_such_rows_is_driven_in_padded_ones(
    model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one whose attention adds to its scores, or never hears of where it is to look."""

    def refuses(*_: object, **__: object) -> None:
        raise ValueError("scaled dot products lack softcap")

    monkeypatch.setattr("laterna.inference.batching.flat._singles", refuses)
    engine = Engine(model)
    steps: Any = engine._steps
    assert not engine.one_by_one and not is_flat(steps._language)
    asked = [engine.submit(*one, Decoding(max_new_tokens=6)) for one in PROMPTS]
    assert [ids_of(one) for one in asked] == generate_tokens(
        model, PROMPTS, Decoding(max_new_tokens=6)
    )
    engine.close()
