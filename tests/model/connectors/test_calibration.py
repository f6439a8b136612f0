from __future__ import annotations

import pytest
import torch

from laterna.errors import LaternaError
from laterna.model.connectors import build_connector
from laterna.recipe import ConnectorSettings


@pytest.mark.parametrize("kind", ["linear", "mlp"])
@torch.no_grad()
def test_a_fitted_connector_sees_standard_features_and_writes_words_of_the_right_length(
    kind: str,
) -> None:
    torch.manual_seed(0)
    connector = build_connector(ConnectorSettings(kind=kind, calibrate=True), 6, 16)
    spread = torch.tensor([0.2, 1.0, 5.0, 20.0, 0.5, 2.0])
    features = torch.randn(40, 9, 6) * spread + 10 * spread
    first = connector.layers[0] if kind == "mlp" else connector.project
    weight, bias = first.weight.clone(), first.bias.clone()
    standard = (features - features.mean((0, 1))) / features.flatten(0, 1).std(0)
    seen = standard @ weight.T + bias
    connector.calibrate(features, rms_length=3.0)
    if kind == "mlp":
        assert torch.allclose(first(features), seen, atol=1e-4)
    lengths = connector(features).norm(dim=-1)
    assert lengths.square().mean().sqrt().item() == pytest.approx(3.0, rel=1e-4)


def test_a_feature_that_was_still_is_not_blown_up_when_it_moves() -> None:
    """As a convolution's dead channel does, under 16 bits' rounding or on the next image."""
    connector = build_connector(ConnectorSettings(kind="mlp", calibrate=True), 4, 8)
    features = torch.randn(50, 3, 4)
    features[..., 2] = 7.0
    connector.calibrate(features, rms_length=1.0)
    moved = features.clone()
    moved[..., 2] += 0.01
    tokens, others = connector(features), connector(moved)
    assert tokens.isfinite().all()
    assert (others - tokens).norm() < 0.2 * tokens.norm()


def test_connectors_that_cannot_be_fitted_say_so() -> None:
    with pytest.raises(LaternaError, match="calibrate"):
        build_connector(ConnectorSettings(kind="perceiver", calibrate=True), 4, 8)
