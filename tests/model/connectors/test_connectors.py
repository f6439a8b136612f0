from __future__ import annotations

from pathlib import Path

import pytest
import torch
from msgspec import structs
from PIL import Image

from laterna.errors import LaternaError
from laterna.model.build import build_from_recipe
from laterna.model.checkpoint import load_checkpoint, save_checkpoint
from laterna.model.connectors import CONNECTORS, build_connector
from laterna.recipe import ConnectorSettings, Recipe

SMALL = {
    "linear": ConnectorSettings(kind="linear"),
    "mlp": ConnectorSettings(kind="mlp", depth=3),
    "pool": ConnectorSettings(kind="pool"),
    "shuffle": ConnectorSettings(kind="pool", merge="shuffle", depth=1),
    "qformer": ConnectorSettings(kind="qformer", width=64, blocks=2, queries=3),
    "perceiver": ConnectorSettings(kind="perceiver", blocks=2, queries=3),
    "resampler": ConnectorSettings(kind="resampler", blocks=2, queries=3, heads=2, head_width=8),
}
"""Every kind, small, and the tokens that 4 patches become in it."""
TOKENS = {"linear": 4, "mlp": 4, "pool": 1, "shuffle": 1, "qformer": 3, "perceiver": 3}
TOKENS["resampler"] = 3


def test_every_kind_is_tried_here() -> None:
    assert {settings.kind for settings in SMALL.values()} == set(CONNECTORS)


@pytest.mark.parametrize("name", SMALL)
def test_tokens_are_known_before_running(name: str) -> None:
    connector = build_connector(SMALL[name], 24, 32)
    assert connector.tokens(4) == TOKENS[name]
    assert connector(torch.randn(2, 4, 24)).shape == (2, TOKENS[name], 32)


@pytest.mark.parametrize("name", SMALL)
def test_sizes_are_known_on_the_meta_device(name: str) -> None:
    with torch.device("meta"):
        connector = build_connector(SMALL[name], 24, 32)
        out = connector(torch.empty(2, 4, 24))
    assert out.is_meta
    assert out.shape == (2, connector.tokens(4), 32)


@pytest.mark.parametrize("name", SMALL)
def test_every_weight_trains(name: str) -> None:
    torch.manual_seed(0)
    connector = build_connector(SMALL[name], 24, 32).train()
    features, wanted = torch.randn(8, 4, 24), torch.randn(8, TOKENS[name], 32)
    optimizer = torch.optim.AdamW(connector.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        loss = (connector(features) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert [key for key, weight in connector.named_parameters() if weight.grad is None] == []
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("name", SMALL)
def test_the_first_weights_follow_the_seed(name: str) -> None:
    def states(seed: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(seed)
        return build_connector(SMALL[name], 24, 32).state_dict()

    first, again, other = states(5), states(5), states(6)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", SMALL)
def test_a_checkpoint_brings_it_back(name: str, tiny_recipe: Recipe, tmp_path: Path) -> None:
    recipe = structs.replace(tiny_recipe, connector=SMALL[name])
    assistant = build_from_recipe(recipe)
    folder = save_checkpoint(tmp_path / "c", assistant, recipe, stage="align", figures={})
    again = load_checkpoint(folder)
    image = Image.effect_noise((40, 30), 90).convert("RGB")
    text = "<s>USER: <image>\nWhat is it? ASSISTANT: Red"
    logits = assistant.logits([image], text)
    assert torch.equal(again.logits([image], text), logits)
    assert not torch.equal(again.logits([Image.new("RGB", (40, 30))], text), logits)


@pytest.mark.parametrize(
    ("kind", "setting", "used"),
    [
        ("linear", {"depth": 3}, "calibrate"),
        ("mlp", {"queries": 8}, "activation, calibrate, depth"),
        ("mlp", {"merge": "shuffle"}, "activation, calibrate, depth"),
        ("pool", {"blocks": 2}, "calibrate, depth, merge, merge_side, width"),
        ("qformer", {"merge_side": 3}, "blocks, frozen_qformer, queries, source, width"),
        ("perceiver", {"source": "blip"}, "blocks, queries"),
        ("perceiver", {"frozen_qformer": True}, "blocks, queries"),
    ],
)
def test_a_setting_that_the_kind_does_not_use_is_refused(
    kind: str, setting: dict[str, int], used: str
) -> None:
    with pytest.raises(LaternaError) as caught:
        build_connector(ConnectorSettings(kind=kind, **setting), 24, 32)
    (key,) = setting
    assert f"connector.{key} = " in str(caught.value)
    assert f"of kind '{kind}' does not use it; it uses {used}" in str(caught.value)


@pytest.mark.parametrize("kind", ["qformer", "perceiver"])
@pytest.mark.parametrize("key", ["queries", "blocks"])
def test_none_of_them_is_refused(kind: str, key: str) -> None:
    with pytest.raises(LaternaError, match=rf"connector\.{key} = 0: at least 1 is needed"):
        build_connector(ConnectorSettings(kind=kind, **{key: 0}), 24, 32)


def test_llava_projector_has_its_published_size() -> None:
    connector = build_connector(ConnectorSettings(kind="linear"), 1024, 4096)
    assert sum(weight.numel() for weight in connector.parameters()) == 1024 * 4096 + 4096


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_mlp_is_linear_layers_with_gelu_between(depth: int) -> None:
    connector = build_connector(ConnectorSettings(kind="mlp", depth=depth), 5, 7)
    features = torch.randn(2, 3, 5)
    expected = features
    weights = list(connector.parameters())
    for index in range(depth):
        expected = expected @ weights[2 * index].T + weights[2 * index + 1]
        if index < depth - 1:
            expected = 0.5 * expected * (1 + torch.erf(expected / 2**0.5))
    torch.testing.assert_close(connector(features), expected)
    assert connector(features).shape == (2, connector.tokens(3), 7)


def test_unknown_kind_lists_the_known_ones() -> None:
    with pytest.raises(LaternaError, match=r"'quformer'.*linear, mlp, pool, qformer, perceiver"):
        build_connector(ConnectorSettings(kind="quformer"), 4, 4)


def test_mlp_without_layers_is_refused() -> None:
    with pytest.raises(LaternaError, match=r"connector\.depth = 0"):
        build_connector(ConnectorSettings(depth=0), 4, 4)
