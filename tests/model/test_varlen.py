"""Attention segment by segment: what is asked, and that answering is left as it was."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch.nn.functional import scaled_dot_product_attention

from laterna.inference.assistant import Assistant
from laterna.model.attention import varlen as segments
from laterna.model.attention.varlen import count_pairs, segment_list, use_varlen_attention
from laterna.model.vlm import VisionLanguageModel
from laterna.records import SharedPrefix

TWO_SIBLINGS = SharedPrefix(
    segment_ids_rt=torch.tensor([[0, 0, 1, 1, 1, 2], [0, 1, 1, 2, 2, 2]]),
    attends_to_rt=torch.tensor([[0, 0, 0, 0, 0, 0], [0, 0, 0, 2, 2, 2]]),
    predicted_from_rt=torch.zeros(2, 6, dtype=torch.long),
)
POSITIONS = torch.tensor([[0, 1, 2, 3, 4, 2], [0, 1, 2, 0, 1, 2]])


def test_segments_of_rows_laid_end_to_end() -> None:
    listed = segment_list(TWO_SIBLINGS, POSITIONS)
    assert listed.shape == (1, 1, 6, 2)
    assert listed[0, 0].tolist() == [[2, 0], [3, 0], [1, 0], [1, 3], [2, 3], [3, 5]]


def test_without_sharing_a_segment_begins_where_positions_restart() -> None:
    positions = torch.tensor([[0, 1, 0, 1, 2], [0, 1, 2, 0, 1]])
    assert segment_list(None, positions)[0, 0].tolist() == [[2, 0], [3, 1], [3, 2], [2, 3]]


def test_only_the_pairs_of_a_segment_and_of_what_it_sees_are_computed() -> None:
    listed = segment_list(TWO_SIBLINGS, POSITIONS)
    assert count_pairs(listed) == 2 * 2 + 3 * 5 + 1 * 3 + 1 * 1 + 2 * 3 + 3 * 3


@pytest.mark.parametrize("heads", [2, 4])
def test_it_is_attention_under_the_mask(heads: int) -> None:
    """Values and gradients, with as many keys as queries and with half of them."""
    drawn = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(2, number, 6, 8, generator=drawn, dtype=torch.float64, requires_grad=True)
        for number in (4, heads, heads)
    )
    module = SimpleNamespace(num_key_value_groups=4 // heads, is_causal=True)
    listed = segment_list(TWO_SIBLINGS, POSITIONS)
    ours, _ = segments._attend(module, query, key, value, listed, scaling=0.3)
    same = TWO_SIBLINGS.segment_ids_rt[:, :, None] == TWO_SIBLINGS.segment_ids_rt[:, None]
    other = TWO_SIBLINGS.attends_to_rt[:, :, None] == TWO_SIBLINGS.segment_ids_rt[:, None]
    mask = (same | other).tril()[:, None]
    keys, values = (one.repeat_interleave(4 // heads, dim=1) for one in (key, value))
    theirs = scaled_dot_product_attention(query, keys, values, mask, scale=0.3).transpose(1, 2)
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)
    upwards = torch.randn(ours.shape, generator=drawn, dtype=torch.float64)
    for mine, reference in zip(
        torch.autograd.grad(ours, (query, key, value), upwards),
        torch.autograd.grad(theirs, (query, key, value), upwards),
        strict=True,
    ):
        torch.testing.assert_close(mine, reference, atol=1e-12, rtol=0)


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("how", ["autocast", "bfloat16"])
def test_in_half_it_is_as_near_to_float32_as_its_digits_allow(
    how: str, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values and gradients; by products for short segments, by torch's fused one for long ones."""
    drawn = torch.Generator().manual_seed(0)
    exact = [torch.randn(2, 4, 6, 8, generator=drawn, requires_grad=True) for _ in range(3)]
    module = SimpleNamespace(num_key_value_groups=1, is_causal=True)
    listed = segment_list(TWO_SIBLINGS, POSITIONS)

    def attend(given: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        out, _ = segments._attend(module, *given, listed, scaling=0.3, sliding_window=window)
        return out.float(), *torch.autograd.grad(out.float().square().sum(), given)

    wanted = attend(exact)
    by_products, pairs = segments.by_products, []

    def counted(q: torch.Tensor, k: torch.Tensor, *others: Any) -> torch.Tensor:
        pairs.append((q.shape[2], k.shape[2]))
        return by_products(q, k, *others)

    monkeypatch.setattr(segments, "by_products", counted)
    # Of the six segments the first has 2 × 2 pairs, the largest 3 × 5.
    for most, calls in ((segments.MOST_PAIRS, 6), (4, 3), (0, 0)):
        monkeypatch.setattr(segments, "MOST_PAIRS", most)
        pairs.clear()
        dtype = torch.float32 if how == "autocast" else torch.bfloat16
        with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
            got = attend([one.detach().to(dtype).requires_grad_() for one in exact])
        assert len(pairs) == calls
        for mine, reference in zip(got, wanted, strict=True):
            torch.testing.assert_close(mine.float(), reference, atol=0.06, rtol=0.03)


def test_masks_are_pieces_of_a_few_large_ones() -> None:
    segments._staircase.cache_clear()
    like = torch.zeros(1)
    for before, own in ((1, 1), (5, 3), (200, 256), (3, 100)):
        mask = segments.behind(before, own, None, like)
        assert mask.shape == (own, before + own)
        assert torch.equal(mask[:, :before], torch.zeros(own, before))
        assert torch.equal(mask[:, before:] == 0, torch.ones(own, own).tril() == 1)
        narrow = segments.behind(before, own, 4, like)
        reach = torch.ones(own, before + own, dtype=torch.bool)
        within = reach.tril(before) & reach.triu(before - 3)  # the last four, itself among them
        assert torch.equal(narrow == 0, within)
    assert segments._staircase.cache_info().currsize == 2


def test_answers_are_those_of_sdpa(tiny_assistant: VisionLanguageModel) -> None:
    image = Image.new("RGB", (28, 28), "red")
    expected = Assistant(tiny_assistant).answer(image, "Is it red?", max_new_tokens=8)
    use_varlen_attention(tiny_assistant.language)
    assert Assistant(tiny_assistant).answer(image, "Is it red?", max_new_tokens=8) == expected
