from __future__ import annotations

import math

import pytest
import torch

from laterna.errors import LaternaError
from laterna.model.connectors import build_connector
from laterna.model.connectors.perceiver import positions
from laterna.recipe import ConnectorSettings

SETTINGS = ConnectorSettings(kind="perceiver", queries=5, blocks=1)


def test_positions_tell_row_and_column() -> None:
    waves = positions(9, torch.empty(1, 8))
    assert waves.shape == (9, 8)
    row, column = 2, 1
    expected = [
        wave(place * frequency)
        for place in (row, column)
        for wave in (math.sin, math.cos)
        for frequency in (1.0, 0.01)
    ]
    assert waves[3 * row + column].tolist() == pytest.approx(expected, abs=1e-6)
    assert len({tuple(wave) for wave in waves.tolist()}) == 9


def test_positions_of_no_square_tell_the_number() -> None:
    waves = positions(5, torch.empty(1, 8, dtype=torch.bfloat16))
    assert waves.dtype == torch.bfloat16
    assert len({tuple(wave) for wave in waves.tolist()}) == 5


def test_the_order_of_the_patches_matters() -> None:
    torch.manual_seed(0)
    connector = build_connector(SETTINGS, 24, 32)
    features = torch.randn(1, 16, 24)
    turned = connector(features.flip(1))
    assert (turned - connector(features)).abs().max() > 1e-4


def test_any_number_of_features_becomes_as_many_tokens() -> None:
    connector = build_connector(SETTINGS, 24, 32)
    for n in (1, 49, 257):
        assert connector(torch.randn(2, n, 24)).shape == (2, connector.tokens(n), 32)
        assert connector.tokens(n) == 5


def test_idefics2s_sizes() -> None:
    with torch.device("meta"):
        connector = build_connector(ConnectorSettings(kind="perceiver"), 1152, 4096)
    assert connector.tokens(729) == 64
    weights = dict(connector.named_parameters())
    assert weights["resampler.layers.2.self_attn.q_proj.weight"].shape == (16 * 96, 4096)
    assert weights["resampler.layers.2.self_attn.k_proj.weight"].shape == (4 * 96, 4096)


def test_a_width_without_room_for_positions_is_refused() -> None:
    with pytest.raises(LaternaError, match="a multiple of 4, but the language model's is 30"):
        build_connector(SETTINGS, 24, 30)
