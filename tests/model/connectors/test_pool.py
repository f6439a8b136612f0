from __future__ import annotations

import pytest
import torch

from laterna.errors import LaternaError
from laterna.model.connectors import build_connector
from laterna.recipe import ConnectorSettings


def test_mean_pooling_is_torchs_own() -> None:
    connector = build_connector(ConnectorSettings(kind="pool", merge_side=3), 5, 7)
    features = torch.randn(2, 81, 5)
    map_bdhw = features.transpose(1, 2).reshape(2, 5, 9, 9)
    pooled = torch.nn.functional.avg_pool2d(map_bdhw, 3).flatten(2).transpose(1, 2)
    torch.testing.assert_close(connector(features), connector.mlp(pooled))
    assert connector.tokens(81) == 9


@pytest.mark.parametrize(
    ("side", "n", "m"), [(2, 256, 64), (2, 576, 144), (3, 729, 81), (4, 576, 36), (7, 49, 1)]
)
def test_tokens_of_the_usual_encoders(side: int, n: int, m: int) -> None:
    connector = build_connector(ConnectorSettings(kind="pool", merge_side=side), 4, 4)
    assert connector.tokens(n) == m


def test_a_grid_that_does_not_divide_names_the_sides_that_do() -> None:
    connector = build_connector(ConnectorSettings(kind="pool"), 4, 4)
    with pytest.raises(LaternaError, match=r"27×27 patches .* of 2×2; use one of 3, 9, 27"):
        connector.tokens(729)
    with pytest.raises(LaternaError, match="257 features do not form a square"):
        connector(torch.randn(1, 257, 4))


def test_merging_nothing_is_refused() -> None:
    with pytest.raises(LaternaError, match=r"connector\.merge_side = 1"):
        build_connector(ConnectorSettings(kind="pool", merge_side=1), 4, 4)


@torch.no_grad()
def test_a_width_of_its_own_and_fitted_weights() -> None:
    torch.manual_seed(0)
    settings = ConnectorSettings(kind="pool", merge="shuffle", width=10, calibrate=True)
    connector = build_connector(settings, 4, 6)
    shapes = [tuple(layer.weight.shape) for layer in connector.mlp.layers]
    assert shapes == [(10, 16), (6, 10)]
    features = torch.randn(30, 16, 4) * 7 + 3
    connector.calibrate(features, 2.0)
    lengths = connector(features).norm(dim=-1)
    assert lengths.square().mean().sqrt().item() == pytest.approx(2.0, rel=1e-4)
