"""Where image tokens meet the text: in one row as in several, by numbers as by shapes alone."""

from __future__ import annotations

import msgspec
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from laterna.data.batches import collate
from laterna.model.build import build_from_recipe
from laterna.model.cost import cost_of
from laterna.model.fusion import base
from laterna.model.vlm import VisionLanguageModel
from laterna.recipe import Recipe
from laterna.records import IMAGE_TOKEN_INDEX, Batch, Pack

from ...tiny import flamingo, sample


@pytest.fixture
def batch() -> Batch:
    """Two rows of two samples, the first of which is padded."""
    samples = [sample(number, 5 + 3 * number) for number in range(4)]
    rows = [Pack(samples=(samples[0], samples[1])), Pack(samples=(samples[2], samples[3]))]
    return msgspec.structs.replace(collate(rows), features_bnd=torch.randn(4, 4, 24))


@torch.no_grad()
def test_rows_laid_end_to_end_have_the_states_that_they_have_apart(
    tiny_assistant: VisionLanguageModel, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As FlashAttention needs them; by sdpa, which keeps samples apart in one row as well."""
    apart = tiny_assistant.hidden_states(batch)
    monkeypatch.setattr(base, "wants_one_row", lambda _language: True)
    end_to_end = tiny_assistant.hidden_states(batch)
    assert end_to_end.shape == apart.shape == (2, batch.input_ids_rt.shape[1], 32)
    torch.testing.assert_close(end_to_end, apart, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rows", [1, 2])
def test_a_rehearsed_row_of_marks_costs_what_a_real_one_costs(
    tiny_recipe: Recipe, rows: int
) -> None:
    """Under cross-attention: an image takes one position, and all tokens behind it ask it."""
    model = build_from_recipe(flamingo(tiny_recipe))
    model.language.set_attn_implementation("eager")
    ids = torch.tensor([[IMAGE_TOKEN_INDEX, *range(5, 16)]] * rows)
    batch = Batch(
        ids=("one",),
        input_ids_rt=ids,
        position_ids_rt=torch.arange(12).expand_as(ids),
        loss_mask_rt=torch.zeros_like(ids, dtype=torch.bool),
        image_mask_rt=ids == IMAGE_TOKEN_INDEX,
    )
    images = list(torch.randn(rows, 4, 24))
    # On a CPU torch's counter knows no fused attention.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as real:
        model.fusion.hidden_states(model.language, batch, images)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as rehearsed:
        model.fusion.rehearse(
            model.language, torch.zeros(rows, 4, 24), 11, mask=torch.zeros(rows, 1, 12, 12)
        )
    assert rehearsed.get_total_flops() == real.get_total_flops() > 0
    forward = cost_of(model).forward
    assert forward.beside_tokens == 4
    wanted = 12 * forward.token + 144 * forward.pair + 4 * forward.beside + 48 * forward.beside_pair
    assert rows * wanted == pytest.approx(real.get_total_flops(), rel=1e-6)


@torch.no_grad()
def test_a_rehearsed_row_costs_what_a_real_one_costs(
    tiny_assistant: VisionLanguageModel, batch: Batch
) -> None:
    tiny_assistant.language.set_attn_implementation("eager")
    rows, width = batch.input_ids_rt.shape
    with FlopCounterMode(display=False) as real:
        tiny_assistant.hidden_states(batch)
    images_rmd = torch.zeros(rows, 8, 32)
    mask = torch.zeros(rows, 1, width, width)
    with FlopCounterMode(display=False) as rehearsed:
        states_rtd = tiny_assistant.fusion.rehearse(
            tiny_assistant.language, images_rmd, width - 8, mask=mask
        )
    assert states_rtd.shape == (rows, width, 32)
    connector = 2 * 4 * 4 * (24 * 32 + 32 * 32)
    assert real.get_total_flops() - connector == rehearsed.get_total_flops() > 0
