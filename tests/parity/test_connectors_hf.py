"""With the same weights, connectors give what transformers' own models give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    BlipImageProcessorPil,
    Idefics3Config,
    OPTConfig,
)
from transformers.models.idefics2.configuration_idefics2 import Idefics2PerceiverConfig
from transformers.models.idefics2.modeling_idefics2 import Idefics2PerceiverResampler
from transformers.models.idefics3.modeling_idefics3 import Idefics3Connector

from laterna.model.connectors import build_connector
from laterna.model.connectors.perceiver import PerceiverConnector, positions
from laterna.model.connectors.pool import PoolConnector
from laterna.model.connectors.qformer import QFormerConnector
from laterna.model.vision import load_vision
from laterna.recipe import ConnectorSettings, VisionSettings


def small_blip2(folder: Path) -> Any:
    """A BLIP-2 of two encoder layers and three Q-Former blocks, saved with its processor."""
    torch.manual_seed(0)
    text = OPTConfig(
        vocab_size=9,
        hidden_size=16,
        ffn_dim=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        word_embed_proj_dim=16,
    )
    config = Blip2Config(
        vision_config={
            "hidden_size": 24,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
            "initializer_range": 0.2,
        },
        qformer_config={
            "hidden_size": 128,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "intermediate_size": 512,
            "encoder_hidden_size": 24,
            "initializer_range": 0.2,
        },
        text_config=text.to_dict(),
        num_query_tokens=5,
    )
    blip = Blip2ForConditionalGeneration(config).eval()
    torch.nn.init.normal_(blip.query_tokens)
    torch.nn.init.normal_(blip.vision_model.post_layernorm.weight)
    blip.save_pretrained(folder)
    BlipImageProcessorPil(size={"height": 28, "width": 28}).save_pretrained(folder)
    return blip


def test_image_to_embeddings_equal_blip2(tmp_path: Path) -> None:
    """Encoder, closing norm, class token kept, Q-Former and projection: all of BLIP-2's eye."""
    blip = small_blip2(tmp_path)
    pixels = torch.randn(2, 3, 28, 28)
    with torch.no_grad():
        states = blip.vision_model(pixels).last_hidden_state
        queries = blip.query_tokens.expand(2, -1, -1)
        asked = blip.qformer(query_embeds=queries, encoder_hidden_states=states)
        expected = blip.language_projection(asked.last_hidden_state)

    tower = load_vision(
        VisionSettings(source=str(tmp_path), layer=-1, class_token=True, final_norm=True)
    )
    settings = ConnectorSettings(
        kind="qformer", width=128, blocks=3, queries=5, source=str(tmp_path)
    )
    connector = build_connector(settings, tower.width, 16).eval()
    assert isinstance(connector, QFormerConnector)
    connector.project.load_state_dict(blip.language_projection.state_dict())
    with torch.no_grad():
        found = connector(tower(pixels))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert found.std() > 1e-2
    assert (found[0] - found[1]).abs().max() > 1e-3  # it depends on the image


@pytest.mark.parametrize(("width", "heads", "keys"), [(1024, 4, 1), (512, 2, 2)])
def test_resampler_equals_idefics2(width: int, heads: int, keys: int) -> None:
    torch.manual_seed(0)
    config = Idefics2PerceiverConfig(
        hidden_size=width,
        resampler_n_latents=5,
        resampler_depth=2,
        resampler_n_heads=heads,
        resampler_head_dim=96,
        num_key_value_heads=keys,
    )
    theirs = Idefics2PerceiverResampler(config).eval()
    torch.nn.init.normal_(theirs.latents)
    for name, weight in theirs.named_parameters():
        if "norm" in name:
            torch.nn.init.normal_(weight, mean=1.0, std=0.2)
    settings = ConnectorSettings(kind="perceiver", queries=5, blocks=2)
    connector = build_connector(settings, 24, width).eval()
    assert isinstance(connector, PerceiverConnector)
    connector.resampler.load_state_dict(theirs.state_dict())
    features = torch.randn(2, 9, 24)
    with torch.no_grad():
        projected = connector.project(features)
        context = projected + positions(9, projected)
        expected = theirs(context=context, attention_mask=torch.ones(2, 9, dtype=torch.long))
        found = connector(features)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("side", "n"), [(2, 64), (3, 81), (4, 64)])
def test_pixel_shuffle_equals_idefics3(side: int, n: int) -> None:
    torch.manual_seed(0)
    config = Idefics3Config(
        vision_config={"hidden_size": 12, "num_attention_heads": 2, "num_hidden_layers": 1},
        text_config={
            "model_type": "llama",
            "hidden_size": 20,
            "num_attention_heads": 2,
            "num_hidden_layers": 1,
        },
        scale_factor=side,
    )
    theirs = Idefics3Connector(config)
    settings = ConnectorSettings(kind="pool", merge="shuffle", merge_side=side, depth=1)
    connector = build_connector(settings, 12, 20)
    assert isinstance(connector, PoolConnector)
    weights = {"weight": theirs.modality_projection.proj.weight, "bias": torch.zeros(20)}
    connector.mlp.layers[0].load_state_dict(weights)
    features = torch.randn(2, n, 12)
    torch.testing.assert_close(connector(features), theirs(features), atol=1e-5, rtol=0)
