"""4 bits by value: what is packed, how far it is from the whole, and how adapters train over it."""

from __future__ import annotations

import sys

import pytest
import torch
from msgspec.structs import replace

from laterna.errors import LaternaError
from laterna.model.build import build_from_recipe
from laterna.model.language.adapters import add_lora, merged_weights, train_lora
from laterna.model.language.causal import layers_of, load_language
from laterna.model.language.quantize import count_weights, is_quantized, quantize
from laterna.recipe import LoraSettings, Recipe, load_recipe
from laterna.training.objective import Objective
from laterna.training.parallel import shard
from laterna.training.stages import apply_stage


def test_layers_are_packed_and_answer_nearly_the_same() -> None:
    pytest.importorskip("bitsandbytes")
    settings = load_recipe("nano").language
    whole = load_language(settings).model
    packed = load_language(replace(settings, quantize="4bit")).model
    assert (is_quantized(whole), is_quantized(packed)) == (False, True)
    counts = [sum(map(count_weights, model.parameters())) for model in (whole, packed)]
    assert counts[0] == counts[1] == 1_955_136
    held = [
        sum(one.nbytes for one in layers_of(model)[0].parameters()) for model in (whole, packed)
    ]
    assert held[1] < held[0] / 7
    head = packed.get_output_embeddings().weight
    assert torch.equal(head, whole.get_output_embeddings().weight)
    ids = torch.arange(5, 60)[None]
    with torch.no_grad():
        expected, found = (
            model(input_ids=ids, use_cache=False).logits for model in (whole, packed)
        )
        again = packed(input_ids=ids, use_cache=False).logits
    apart = (found - expected).norm() / expected.norm()
    assert 1e-4 < apart < 0.3
    assert torch.equal(again, found)


def test_adapters_over_4_bits_have_the_gradients_of_the_unpacked_weights() -> None:
    """The packed weights are constants: adapters over their unpacked values train the same."""
    functional = pytest.importorskip("bitsandbytes.functional")
    settings = load_recipe("nano").language
    packed = load_language(replace(settings, quantize="4bit")).model
    unpacked = load_language(settings).model
    values = dict(unpacked.named_parameters())
    with torch.no_grad():
        for name, weight in packed.named_parameters():
            if getattr(weight, "quant_state", None) is not None:
                values[name].copy_(functional.dequantize_4bit(weight.data, weight.quant_state))
    gradients = []
    ids = torch.arange(5, 60)[None]
    for model in (packed, unpacked):
        torch.manual_seed(0)
        add_lora(model, LoraSettings(r=4, alpha=8, dropout=0.0))
        train_lora(model, trains=True)
        for name, weight in model.named_parameters():
            if ".lora_B" in name:
                torch.nn.init.normal_(weight, std=0.02)
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        gradients.append({n: w.grad for n, w in model.named_parameters() if w.requires_grad})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-5, rtol=1e-3)


def test_what_4_bits_cannot_do_is_refused(tiny_recipe: Recipe) -> None:
    pytest.importorskip("bitsandbytes")
    language = replace(tiny_recipe.language, quantize="4bit")
    ours = replace(tiny_recipe, language=language)
    assistant = build_from_recipe(ours)
    with pytest.raises(LaternaError, match="`full`: this part's matrices are in 4 bits"):
        apply_stage(assistant, ours, "instruct")
    with pytest.raises(LaternaError, match="cannot be merged or exported"):
        merged_weights(assistant.language)
    with pytest.raises(LaternaError, match="is not for fsdp"):
        shard(Objective(assistant))


def test_4_bits_without_their_package_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes.nn", None)
    with pytest.raises(LaternaError, match=r"needs the package bitsandbytes; .*laterna\[bits"):
        quantize(torch.nn.Linear(4, 4))
