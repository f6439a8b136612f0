"""The twin that answers on a CPU: the same weights and, but for rounding, the same numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from laterna.inference.batching import onednn
from laterna.inference.batching.onednn import PackedLinear, packed
from laterna.inference.batching.steps import Slots
from laterna.inference.engine import Engine
from laterna.inference.generation import generate_tokens
from laterna.inference.sampling import Decoding
from laterna.model.vlm import VisionLanguageModel

from .conftest import PROMPTS, ids_of


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "WORTH_IT", 0)
    monkeypatch.setattr(onednn, "SMALL", 0)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 1, 24), (3, 7, 24), (24,)])
def test_a_packed_layer_gives_what_the_plain_one_gives(
    always: None, bias: bool, shape: tuple[int, ...]
) -> None:
    plain = nn.Linear(24, 40, bias=bias)
    twin = PackedLinear(plain)
    inputs = torch.randn(shape)
    with torch.no_grad():
        inputs = inputs.transpose(0, -1).contiguous().transpose(0, -1)
        assert torch.equal(twin(inputs), plain(inputs)) and twin._packed is None  # not yet
        given = twin(inputs)
        assert twin._packed is not None
        torch.testing.assert_close(given, plain(inputs), atol=1e-6, rtol=1e-5)
    assert given.shape == (*shape[:-1], 40)
    assert twin.weight is plain.weight and twin.bias is plain.bias


def test_small_products_stay_with_torch() -> None:
    plain = nn.Linear(1000, 1000)
    twin = PackedLinear(plain)
    with torch.no_grad():
        for _ in range(2):
            twin(torch.ones(2, 1000))
        plain.weight.zero_()  # which the copy does not see
        assert torch.equal(twin(torch.ones(1, 1000)), plain(torch.ones(1, 1000)))
        assert not torch.equal(twin(torch.ones(2, 1000)), plain(torch.ones(2, 1000)))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 16)
        self.norm = nn.LayerNorm(8)
        self.dropout = nn.Dropout(0.5)


def test_small_weights_stay_with_torch(model: VisionLanguageModel) -> None:
    net = nn.Sequential(nn.Linear(400, 500), nn.Linear(500, 399))
    twin = packed(net, 10**9)
    assert [type(one) for one in twin] == [PackedLinear, nn.Linear]
    assert packed(net[1:], 10**9) is not net and type(packed(net[1:], 10**9)[0]) is nn.Linear
    # A model of small weights alone is copied for its attention.
    assert packed(model.language, 10**9) is not model.language
    assert packed(model.language, 10**9, flat=False) is model.language


def test_a_twin_shares_its_weights_and_copies_only_so_many_bytes(always: None) -> None:
    net = Net().train()
    twin = packed(net, 8 * 8 * 4)
    assert twin is not net and not twin.training and net.training
    assert type(twin.first) is PackedLinear and type(twin.second) is nn.Linear
    assert type(net.first) is nn.Linear
    pairs = zip(net.named_parameters(), twin.named_parameters(), strict=True)
    assert all(name == other and one is two for (name, one), (other, two) in pairs)
    assert packed(net, 8 * 8 * 4 - 1) is net  # none fits
    assert packed(net.bfloat16(), 10**6) is net
    assert packed(nn.Linear(4, 4, device="meta"), 10**6) is not None


def test_new_weights_of_the_language_model_are_packed_anew(
    model: VisionLanguageModel, always: None
) -> None:
    engine, decoding = Engine(model), Decoding(max_new_tokens=8)
    steps: Any = engine._steps
    assert isinstance(steps, Slots) and steps._language is not model.language
    before = ids_of(engine.submit(*PROMPTS[2], decoding))
    weight = next(module.weight for module in model.language.modules() if type(module) is nn.Linear)
    kept = weight.detach().clone()
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(2))
    try:
        with torch.no_grad():
            weight.add_(noise)
        changed = ids_of(engine.submit(*PROMPTS[2], decoding))
        assert changed == generate_tokens(model, PROMPTS[2:3], decoding)[0] != before
    finally:
        with torch.no_grad():
            weight.copy_(kept)
