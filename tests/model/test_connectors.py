from __future__ import annotations

import pytest
import torch

from laterna.errors import LaternaError
from laterna.model.connectors import build_connector
from laterna.recipe import ConnectorSettings


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
    with pytest.raises(LaternaError, match=r"'quformer'.*linear, mlp"):
        build_connector(ConnectorSettings(kind="quformer"), 4, 4)


def test_mlp_without_layers_is_refused() -> None:
    with pytest.raises(LaternaError, match=r"connector\.depth = 0"):
        build_connector(ConnectorSettings(depth=0), 4, 4)
