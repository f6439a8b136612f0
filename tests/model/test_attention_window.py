"""Sliding windows in packed rows: kept by varlen attention, found by the probe elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM

from laterna.errors import LaternaError
from laterna.model.attention.shared_prefix import (
    attention_window,
    attention_windows,
    require_packing,
    shared_prefix_mask,
)
from laterna.model.attention.varlen import use_varlen_attention
from laterna.records import SharedPrefix


def windowed(kind: str) -> Any:
    """A language model of two tiny layers, one or both of which look back 24 tokens."""
    sizes: dict[str, Any] = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "sliding_window": 24,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if kind == "qwen2":
        sizes |= {"use_sliding_window": True, "max_window_layers": 1}
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes)).eval()


@pytest.mark.parametrize("kind", ["mistral", "gemma3_text", "phi3", "qwen2"])
def test_windows_are_kept_by_segments_and_found_where_a_mask_of_ours_would_lose_them(
    kind: str,
) -> None:
    language = windowed(kind)
    assert attention_window(language.config) == 24
    require_packing(language, shared_prefix=False)
    with pytest.raises(LaternaError, match=r"shared_prefix.* the 24 tokens that some of its"):
        require_packing(language, shared_prefix=True)
    use_varlen_attention(language)
    require_packing(language, shared_prefix=True)


@pytest.mark.parametrize("kind", ["mistral", "gemma3_text"])
def test_states_and_gradients_under_a_window_are_those_alone(kind: str) -> None:
    """A prefix of 10 and siblings of 5 and 40 tokens; the window is 24."""
    language = windowed(kind)
    embeds = torch.randn(1, 55, 32, generator=torch.Generator().manual_seed(1))
    alone_in = [embeds[:, :15], torch.cat([embeds[:, :10], embeds[:, 15:]], dim=1)]
    decoder = language.get_decoder()
    siblings = [decoder(inputs_embeds=one, use_cache=False).last_hidden_state for one in alone_in]
    expected = torch.cat([siblings[0], siblings[1][:, 10:]], dim=1)
    weights = [weight for weight in decoder.layers.parameters() if weight.requires_grad]
    gradients = torch.autograd.grad(expected.square().sum(), weights)
    use_varlen_attention(language)
    sharing = SharedPrefix(
        segment_ids_rt=torch.tensor([[0] * 10 + [1] * 5 + [2] * 40]),
        attends_to_rt=torch.zeros(1, 55, dtype=torch.long),
        predicted_from_rt=torch.zeros(1, 55, dtype=torch.long),
    )
    positions = torch.tensor([[*range(15), *range(10, 50)]])
    found = decoder(
        inputs_embeds=embeds,
        position_ids=positions,
        attention_mask=shared_prefix_mask(sharing, positions, language),
        use_cache=False,
    ).last_hidden_state
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    for ours, theirs in zip(
        torch.autograd.grad(found.square().sum(), weights), gradients, strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_segments_refuse_what_they_cannot_compute() -> None:
    """Gemma 2 caps its scores."""
    language = windowed("gemma2")
    require_packing(language, shared_prefix=False)
    use_varlen_attention(language)
    with pytest.raises(LaternaError, match=r"'varlen' cannot compute .* \(softcap\); set run"):
        require_packing(language, shared_prefix=False)


def test_a_window_that_is_switched_off_is_none() -> None:
    config = AutoConfig.for_model("qwen2", use_sliding_window=False, sliding_window=24)
    assert attention_window(config) is None
    assert attention_window(AutoConfig.for_model("llama")) is None


@pytest.mark.parametrize(
    ("kind", "said", "windows"),
    [
        ("gpt_neo", {"window_size": 256}, {256}),
        ("doge", {"keep_window_size": 48}, {48}),
        ("deepseek_v32", {"index_topk": 64}, {64}),
        ("deepseek_v4", {"sliding_window": 128, "index_topk": 512}, {128, 512}),
        ("llama4_text", {}, {8192}),
        ("dots1", {"sliding_window": 4096}, set()),  # which none of its layers has by default
    ],
)
def test_windows_under_other_names_are_seen(
    kind: str, said: dict[str, int], windows: set[int]
) -> None:
    if kind not in CONFIG_MAPPING:
        pytest.skip(f"this version of transformers has no {kind}")
    assert attention_windows(AutoConfig.for_model(kind, **said)) == windows


def tiny_of(kind: str, **sizes: Any) -> Any:
    torch.manual_seed(0)
    shape = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "pad_token_id": 0}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **shape | sizes)).eval()


def test_local_layers_of_gpt_neo_are_found_by_the_probe() -> None:
    language = tiny_of(
        "gpt_neo",
        attention_types=[[["global", "local"], 1]],
        num_layers=2,
        num_heads=4,
        window_size=24,
    )
    require_packing(language, shared_prefix=False)
    with pytest.raises(LaternaError, match=r"shared_prefix.* the 24 tokens that some of its"):
        require_packing(language, shared_prefix=True)


def test_a_model_that_fails_when_packing_is_tried_is_refused_in_a_sentence() -> None:
    language = tiny_of(
        "doge", num_attention_heads=4, num_key_value_heads=2, intermediate_size=48, head_dim=8
    )
    use_varlen_attention(language)
    with pytest.raises(LaternaError, match=r"failed when they were tried \(.*'sdpa'"):
        require_packing(language, shared_prefix=False)
