"""OpenFlamingo's own modules, by what they gave (`../shared/data/vectors/README.md`)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from laterna.model.connectors import build_connector
from laterna.model.fusion.cross_attention import GatedBlock, Media
from laterna.recipe import ConnectorSettings, CrossAttentionSettings

VECTORS = Path(__file__).parents[3] / "shared" / "data" / "vectors"
needs_vectors = pytest.mark.skipif(not VECTORS.is_dir(), reason="../shared/data is not here")


def halves(both: Tensor) -> tuple[Tensor, Tensor]:
    return both.chunk(2)[0], both.chunk(2)[1]


def load(module: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
    module.double().load_state_dict(weights)
    return module


@needs_vectors
@torch.no_grad()
def test_the_resampler_is_open_flamingos() -> None:
    found = load_file(VECTORS / "flamingo_perceiver.safetensors")
    weights = {
        "latents": found["w.latents"],
        "norm.weight": found["w.norm.weight"],
        "norm.bias": found["w.norm.bias"],
    }
    for number in range(2):
        theirs, ours = f"w.layers.{number}.", f"layers.{number}."
        for end in ("weight", "bias"):
            weights[f"{ours}features_norm.{end}"] = found[f"{theirs}0.norm_media.{end}"]
            weights[f"{ours}latents_norm.{end}"] = found[f"{theirs}0.norm_latents.{end}"]
            weights[f"{ours}ff.0.{end}"] = found[f"{theirs}1.0.{end}"]
        keys, values = halves(found[f"{theirs}0.to_kv.weight"])
        weights[f"{ours}attention.q_proj.weight"] = found[f"{theirs}0.to_q.weight"]
        weights[f"{ours}attention.k_proj.weight"] = keys
        weights[f"{ours}attention.v_proj.weight"] = values
        weights[f"{ours}attention.o_proj.weight"] = found[f"{theirs}0.to_out.weight"]
        weights[f"{ours}ff.1.weight"] = found[f"{theirs}1.1.weight"]
        weights[f"{ours}ff.3.weight"] = found[f"{theirs}1.3.weight"]
    settings = ConnectorSettings(kind="resampler", queries=4, blocks=2, heads=3, head_width=4)
    resampler = load(build_connector(settings, 12, 12), weights)
    features_bnd = found["in.x"].flatten(0, 1).flatten(1, 2)
    tokens = resampler(features_bnd).unflatten(0, (2, 2))
    torch.testing.assert_close(tokens, found["out"], atol=1e-10, rtol=0)


def their_block(gate: str) -> tuple[GatedBlock, dict[str, Tensor]]:
    found = load_file(VECTORS / f"flamingo_gated_xattn_gate{gate}.safetensors")
    keys, values = halves(found["w.attn.to_kv.weight"])
    weights = {
        "norm.weight": found["w.attn.norm.weight"],
        "norm.bias": found["w.attn.norm.bias"],
        "attention.q_proj.weight": found["w.attn.to_q.weight"],
        "attention.k_proj.weight": keys,
        "attention.v_proj.weight": values,
        "attention.o_proj.weight": found["w.attn.to_out.weight"],
        "attention_gate": found["w.attn_gate"],
        "ff_gate": found["w.ff_gate"],
        **{f"ff.{key}": found[f"w.ff.{key}"] for key in ("0.weight", "0.bias", "1.weight")},
        "ff.3.weight": found["w.ff.3.weight"],
    }
    block = GatedBlock(CrossAttentionSettings(heads=2, head_width=4), 12, 16, inner=64)
    load(block, weights)
    return block, found


def run_block(block: GatedBlock, found: dict[str, Tensor]) -> Tensor:
    """Run a block over three images a row, however many marks there are."""
    media_jmd, marks_rt = found["in.media"].flatten(0, 1), found["in.media_locations"]
    sees_rt = marks_rt.cumsum(1) + torch.tensor([[0], [3]])
    media = Media(media_jmd, None, sees_rt * (marks_rt.cumsum(1) > 0))
    return block(found["in.x"], block.attention.keys_values(media_jmd), media.route(9))


@needs_vectors
@torch.no_grad()
@pytest.mark.parametrize("gate", ["0.0", "0.7"])
def test_a_gated_block_is_open_flamingos(gate: str) -> None:
    block, found = their_block(gate)
    torch.testing.assert_close(run_block(block, found), found["out"], atol=1e-10, rtol=0)


@needs_vectors
@torch.no_grad()
def test_each_token_sees_the_last_image_before_it_and_no_other() -> None:
    """By the block itself: another image changes those tokens alone that the list says."""
    block, found = their_block("0.7")
    told = json.loads((VECTORS / "flamingo_media_mask.json").read_text())
    before = run_block(
        block, {**found, "in.media_locations": torch.tensor(told["media_locations"])}
    )
    depends = torch.tensor(told["depends_on_picture"]).bool()
    for image in range(3):
        media = found["in.media"].clone()
        media[:, image] += 1
        after = run_block(block, {**found, "in.media": media})
        assert torch.equal((after != before).any(dim=-1), depends[:, :, image])
