from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec import structs
from safetensors.torch import load_file, save_file
from transformers import Blip2Config, Blip2ForConditionalGeneration, OPTConfig

from laterna.errors import LaternaError
from laterna.model.build import build_from_recipe
from laterna.model.checkpoint import load_checkpoint, save_checkpoint
from laterna.model.connectors import build_connector
from laterna.model.connectors.qformer import QFormerConnector
from laterna.recipe import ConnectorSettings, Recipe


@pytest.fixture(scope="module")
def blip2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BLIP-2 of 24-wide features, 3 queries and a Q-Former of width 64 and 2 blocks, sharded."""
    config = Blip2Config(
        vision_config={
            "hidden_size": 24,
            "intermediate_size": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        },
        qformer_config={
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 1,
            "intermediate_size": 256,
            "encoder_hidden_size": 24,
        },
        text_config=OPTConfig(
            vocab_size=9,
            hidden_size=16,
            ffn_dim=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            word_embed_proj_dim=16,
        ).to_dict(),
        num_query_tokens=3,
    )
    model = Blip2ForConditionalGeneration(config)
    torch.nn.init.normal_(model.query_tokens)
    folder = tmp_path_factory.mktemp("blip2")
    model.save_pretrained(folder, max_shard_size="200KB")
    assert (folder / "model.safetensors.index.json").is_file()
    return folder


def settings(source: Path | str = "", **changed: Any) -> ConnectorSettings:
    small = ConnectorSettings(kind="qformer", width=64, blocks=2, queries=3, source=str(source))
    return structs.replace(small, **changed)


def build(chosen: ConnectorSettings) -> QFormerConnector:
    connector = build_connector(chosen, 24, 32)
    assert isinstance(connector, QFormerConnector)
    return connector


def test_it_begins_with_a_blip2s_weights(blip2: Path) -> None:
    connector = build(settings(blip2))
    whole = Blip2ForConditionalGeneration.from_pretrained(blip2)
    assert torch.equal(connector.queries, whole.query_tokens)
    theirs = whole.qformer.state_dict()
    ours = connector.qformer.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_frozen_one_trains_its_linear_layer_alone(blip2: Path) -> None:
    connector = build(settings(blip2, frozen_qformer=True))
    for trains in (True, False, True):
        connector.requires_grad_(trains).train(trains)
        free = [name for name, weight in connector.named_parameters() if weight.requires_grad]
        assert free == (["project.weight", "project.bias"] if trains else [])
    features = torch.randn(2, 4, 24)
    torch.testing.assert_close(connector(features), connector(features), atol=0, rtol=0)
    connector(features).sum().backward()
    assert connector.project.weight.grad is not None
    assert connector.queries.grad is None


def test_a_free_one_drops_out_in_training() -> None:
    connector = build(settings()).train()
    features = torch.randn(2, 4, 24)
    assert not torch.equal(connector(features), connector(features))


def test_a_frozen_one_lets_gradients_through_to_the_encoder(blip2: Path) -> None:
    features = torch.randn(1, 4, 24, requires_grad=True)
    build(settings(blip2, frozen_qformer=True))(features).sum().backward()
    assert features.grad is not None
    assert features.grad.abs().sum() > 0


def test_a_frozen_one_without_weights_is_refused() -> None:
    with pytest.raises(LaternaError, match=r"frozen_qformer = true.*connector\.source"):
        build(settings(frozen_qformer=True))


def test_a_checkpoint_needs_its_source_no_more(
    blip2: Path, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    recipe = structs.replace(tiny_recipe, connector=settings(blip2, frozen_qformer=True))
    assistant = build_from_recipe(recipe)
    moved = structs.replace(recipe, connector=settings("gone", frozen_qformer=True))
    folder = save_checkpoint(tmp_path / "c", assistant, moved, stage="align", figures={})
    again = load_checkpoint(folder).connector
    features = torch.randn(1, 4, 24)
    assert torch.equal(again(features), assistant.connector(features))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"queries": 4}, "connector.queries is 4 here and 3 there"),
        ({"blocks": 3}, "connector.blocks is 3 here and 2 there"),
        ({"width": 128}, "connector.width is 128 here and 64 there"),
    ],
)
def test_a_source_of_another_shape_is_refused(
    blip2: Path, changed: dict[str, int], words: str
) -> None:
    with pytest.raises(LaternaError) as caught:
        build(settings(blip2, **changed))
    assert words in str(caught.value)


def test_another_encoders_width_is_refused(blip2: Path) -> None:
    with pytest.raises(LaternaError, match="the encoder's width is 20 here and 24 there"):
        build_connector(settings(blip2), 20, 32)


def test_a_source_without_its_weights_is_refused(blip2: Path, tmp_path: Path) -> None:
    tensors = {
        name: weight
        for path in sorted(blip2.glob("*.safetensors"))
        for name, weight in load_file(path).items()
    }
    (tmp_path / "config.json").write_bytes((blip2 / "config.json").read_bytes())
    lost = "qformer.encoder.layer.1.output_query.dense.bias"
    bias = tensors.pop(lost)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(LaternaError, match=f"1 weights of the Q-Former are missing.*{lost}"):
        build(settings(tmp_path))
    tensors[lost] = bias
    del tensors["query_tokens"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(LaternaError, match="missing, and the queries"):
        build(settings(tmp_path))
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(LaternaError, match="cannot read the Q-Former"):
        build(settings(tmp_path))


def test_a_source_of_another_type_is_refused(tiny_models: Path) -> None:
    with pytest.raises(LaternaError, match=r"type llama hold no Q-Former.*blip-2"):
        build(settings(tiny_models / "language"))


def test_a_width_of_broken_heads_is_refused() -> None:
    with pytest.raises(LaternaError, match=r"connector\.width = 100: .* heads of 64"):
        build(settings(width=100))


def test_blip2s_sizes() -> None:
    with torch.device("meta"):
        connector = build_connector(ConnectorSettings(kind="qformer"), 1408, 4096)
    counts = {name: weight.numel() for name, weight in connector.named_parameters()}
    projection = 768 * 4096 + 4096
    assert connector.tokens(257) == 32
    assert sum(counts.values()) - projection == 105_162_240
    crossing = {name.split(".")[3] for name in counts if "crossattention" in name}
    assert crossing == {"0", "2", "4", "6", "8", "10"}
