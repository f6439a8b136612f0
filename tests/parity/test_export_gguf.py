"""The GGUF files hold what llama.cpp's readers ask for, key for key and tensor for tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from gguf import GGUFReader
from jinja2.sandbox import ImmutableSandboxedEnvironment
from msgspec.structs import replace
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import AutoModelForCausalLM, CLIPVisionConfig, CLIPVisionModel, GgufConfig

from laterna.data.chat import render_prompt
from laterna.data.template import SHIPPED_TEMPLATES
from laterna.errors import LaternaError
from laterna.inference.assistant import Assistant
from laterna.model.build import build_from_recipe
from laterna.model.exporters import export
from laterna.model.exporters.template import for_llama_cpp
from laterna.model.language.adapters import add_lora, merged_weights
from laterna.model.vlm import VisionLanguageModel
from laterna.recipe import ConnectorSettings, LoraSettings, Recipe
from laterna.records import Turn


def keys(path: Path) -> dict[str, Any]:
    """Every key of a file but the format's own."""
    fields = GGUFReader(path).fields
    return {
        name: field.contents() for name, field in fields.items() if not name.startswith("GGUF.")
    }


def tensors(path: Path) -> dict[str, np.ndarray]:
    return {tensor.name: np.asarray(tensor.data) for tensor in GGUFReader(path).tensors}


def exported(assistant: VisionLanguageModel, folder: Path, precision: str = "f32") -> Path:
    return Assistant(assistant).export(folder / "gguf", to="gguf", precision=precision)


def with_vision(recipe: Recipe, folder: Path, **changes: Any) -> Recipe:
    """Return the recipe with a random CLIP of other settings, saved in `folder`."""
    source = Path(recipe.vision.source)
    config = CLIPVisionConfig.from_pretrained(source)
    for name, value in changes.items():
        setattr(config, name, value)
    torch.manual_seed(4)
    CLIPVisionModel(config).save_pretrained(folder / "clip")
    name = "preprocessor_config.json"
    (folder / "clip" / name).write_bytes((source / name).read_bytes())
    vision = msgspec.structs.replace(recipe.vision, source=str(folder / "clip"))
    return msgspec.structs.replace(recipe, vision=vision)


def test_the_image_file_has_every_key(tiny_assistant: VisionLanguageModel, tmp_path: Path) -> None:
    found = keys(exported(tiny_assistant, tmp_path) / "mmproj.gguf")
    processor = tiny_assistant.vision.processor
    close = {"clip.vision.attention.layer_norm_epsilon": 1e-5}
    for name, value in close.items():
        assert found.pop(name) == pytest.approx(value)
    for name, values in (
        ("clip.vision.image_mean", processor.image_mean),
        ("clip.vision.image_std", processor.image_std),
    ):
        assert found.pop(name) == pytest.approx(list(values))
    assert found == {
        "general.architecture": "clip",
        "general.name": "Laterna: vision encoder and connector",
        "general.file_type": 0,
        "clip.has_text_encoder": False,
        "clip.has_vision_encoder": True,
        "clip.has_llava_projector": True,
        "clip.projector_type": "mlp",
        "clip.use_gelu": False,
        "clip.vision.image_size": 28,
        "clip.vision.patch_size": 14,
        "clip.vision.embedding_length": 24,
        "clip.vision.feed_forward_length": 48,
        "clip.vision.projection_dim": 512,
        "clip.vision.block_count": 2,
        "clip.vision.attention.head_count": 2,
        "clip.vision.feature_layer": [2],
    }


def test_the_image_file_has_every_tensor(
    tiny_assistant: VisionLanguageModel, tmp_path: Path
) -> None:
    found = tensors(exported(tiny_assistant, tmp_path) / "mmproj.gguf")
    weights = tiny_assistant.vision.weights()
    expected = {
        "v.class_embd": weights["embeddings.class_embedding"],
        "v.patch_embd.weight": weights["embeddings.patch_embedding.weight"],
        "v.position_embd.weight": weights["embeddings.position_embedding.weight"],
    }
    for kind in ("weight", "bias"):
        expected[f"v.pre_ln.{kind}"] = weights[f"pre_layrnorm.{kind}"]
        expected[f"mm.0.{kind}"] = getattr(tiny_assistant.connector.layers[0], kind)  # type: ignore[index]
        expected[f"mm.2.{kind}"] = getattr(tiny_assistant.connector.layers[1], kind)  # type: ignore[index]
        for layer in range(2):
            for name, module in {
                "ln1": "layer_norm1",
                "ln2": "layer_norm2",
                "attn_q": "self_attn.q_proj",
                "attn_k": "self_attn.k_proj",
                "attn_v": "self_attn.v_proj",
                "attn_out": "self_attn.out_proj",
                "ffn_up": "mlp.fc1",
                "ffn_down": "mlp.fc2",
            }.items():
                weight = weights[f"encoder.layers.{layer}.{module}.{kind}"]
                expected[f"v.blk.{layer}.{name}.{kind}"] = weight
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        assert np.array_equal(found[name], weight.detach().numpy()), name


def test_a_linear_connector_goes_through_the_formats_gelu_unchanged(
    tiny_recipe: Recipe, tmp_path: Path
) -> None:
    recipe = msgspec.structs.replace(tiny_recipe, connector=ConnectorSettings(kind="linear"))
    assistant = build_from_recipe(recipe)
    found = {
        name: torch.from_numpy(value.copy())
        for name, value in tensors(exported(assistant, tmp_path) / "mmproj.gguf").items()
    }
    features = 3 * torch.randn(5, 24, generator=torch.Generator().manual_seed(0))
    hidden = features @ found["mm.0.weight"].T + found["mm.0.bias"]
    for formula in ("none", "tanh"):
        passed = torch.nn.functional.gelu(hidden, approximate=formula)
        result = passed @ found["mm.2.weight"].T + found["mm.2.bias"]
        torch.testing.assert_close(result, assistant.connector(features), atol=1e-5, rtol=0)


def test_equally_wide_layers_stand_where_readers_swap_them(
    tiny_recipe: Recipe, tmp_path: Path
) -> None:
    assistant = build_from_recipe(with_vision(tiny_recipe, tmp_path, intermediate_size=24))
    found = tensors(exported(assistant, tmp_path) / "mmproj.gguf")
    weights = assistant.vision.weights()
    fc1 = weights["encoder.layers.0.mlp.fc1.weight"].numpy()
    assert np.array_equal(found["v.blk.0.ffn_down.weight"], fc1)


def test_the_activation_is_the_configs(tiny_recipe: Recipe, tmp_path: Path) -> None:
    recipe = with_vision(tiny_recipe, tmp_path, hidden_act="gelu")
    folder = exported(build_from_recipe(recipe), tmp_path)
    assert keys(folder / "mmproj.gguf")["clip.use_gelu"] is True


def test_the_text_file_has_every_key(tiny_assistant: VisionLanguageModel, tmp_path: Path) -> None:
    found = keys(exported(tiny_assistant, tmp_path) / "model.gguf")
    tokenizer = tiny_assistant.tokenizer
    vocabulary = tokenizer.get_vocab()
    assert found.pop("llama.attention.layer_norm_rms_epsilon") == pytest.approx(1e-6)
    assert found.pop("tokenizer.ggml.tokens") == sorted(vocabulary, key=vocabulary.__getitem__)
    assert found.pop("tokenizer.ggml.token_type") == [3] * 3 + [1] * (len(vocabulary) - 3)
    merges = found.pop("tokenizer.ggml.merges")
    assert all(left + right in vocabulary for left, right in (pair.split(" ") for pair in merges))
    assert len(merges) > 50
    assert found == {
        "general.architecture": "llama",
        "general.name": "Laterna: language model",
        "general.file_type": 0,
        "llama.context_length": 256,
        "llama.embedding_length": 32,
        "llama.block_count": 2,
        "llama.feed_forward_length": 64,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.attention.key_length": 8,
        "llama.attention.value_length": 8,
        "llama.rope.dimension_count": 8,
        "llama.rope.freq_base": 10000.0,
        "llama.vocab_size": len(vocabulary),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.ggml.add_space_prefix": False,
        "tokenizer.chat_template": for_llama_cpp(tiny_assistant.template, "</s>"),
    }


@torch.no_grad()
def test_transformers_reads_the_text_file_as_the_same_model(
    tiny_assistant: VisionLanguageModel, tmp_path: Path
) -> None:
    add_lora(tiny_assistant.language, LoraSettings(r=2, alpha=4))
    for name, weight in tiny_assistant.language.named_parameters():
        if ".lora_B." in name:
            weight.normal_(std=0.1)
    tiny_assistant.eval()
    folder = exported(tiny_assistant, tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file="model.gguf", quantization_config=GgufConfig(dequantize=True)
    )
    expected = merged_weights(tiny_assistant.language)
    found = theirs.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())
    ids = torch.arange(20)[None]
    torch.testing.assert_close(
        theirs(ids).logits, tiny_assistant.language(ids).logits, atol=1e-5, rtol=0
    )


def test_half_precision_halves_the_matrices_alone(
    tiny_assistant: VisionLanguageModel, tmp_path: Path
) -> None:
    folder = exported(tiny_assistant, tmp_path, "")
    for name in ("model.gguf", "mmproj.gguf"):
        found = tensors(folder / name)
        assert keys(folder / name)["general.file_type"] == 1
        assert all(
            value.dtype == (np.float16 if value.ndim > 1 else np.float32)
            for value in found.values()
        )
    head = tiny_assistant.language.lm_head.weight.detach().half().numpy()
    assert np.array_equal(tensors(folder / "model.gguf")["output.weight"], head)


def test_a_spare_row_is_an_unused_token(
    tiny_assistant: VisionLanguageModel, tmp_path: Path
) -> None:
    tokens = len(tiny_assistant.tokenizer)
    tiny_assistant.language.resize_token_embeddings(tokens + 2, mean_resizing=False)
    found = keys(exported(tiny_assistant, tmp_path) / "model.gguf")
    assert found["tokenizer.ggml.tokens"][-2:] == [f"[unused {tokens}]", f"[unused {tokens + 1}]"]
    assert found["tokenizer.ggml.token_type"][-3:] == [1, 5, 5]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"class_token": True}, "drops the class token"),
        ({"fit": "resize"}, "vision.fit = 'resize': llama.cpp's LLaVA always pads"),
        ({"fit": "crop"}, "vision.fit = 'crop': llama.cpp's LLaVA always pads"),
        ({"fit": "anyres"}, "'anyres' cannot be exported: llama.cpp's LLaVA reads"),
    ],
)
def test_images_that_the_format_reads_otherwise_are_refused(
    tiny_recipe: Recipe, tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    vision = msgspec.structs.replace(tiny_recipe.vision, **changes)
    assistant = build_from_recipe(msgspec.structs.replace(tiny_recipe, vision=vision))
    with pytest.raises(LaternaError, match=reason):
        export(assistant, tmp_path / "out", "gguf")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_type": "gpt2"}, "of type gpt2: Laterna writes type llama only"),
        ({"attention_bias": True}, "biases in its layers"),
        ({"hidden_act": "gelu"}, "with gelu: type llama has silu"),
        (
            {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}},
            "positions scaled by 'llama3'",
        ),
    ],
)
def test_language_models_that_the_format_lacks_are_refused(
    tiny_assistant: VisionLanguageModel, tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    for name, value in changes.items():
        if name == "model_type":
            tiny_assistant.language.config = _Other()
        else:
            setattr(tiny_assistant.language.config, name, value)
    with pytest.raises(LaternaError, match=reason):
        export(tiny_assistant, tmp_path / "out", "gguf")
    assert list(tmp_path.iterdir()) == []


class _Other:
    model_type = "gpt2"


def _lower_case(backend: Tokenizer) -> None:
    backend.normalizer = normalizers.Lowercase()


def _by_space(backend: Tokenizer) -> None:
    backend.pre_tokenizer = pre_tokenizers.Whitespace()


def _unigram(backend: Tokenizer) -> None:
    backend.model = models.Unigram(
        [(token, -1.0) for token in ("<pad>", "<s>", "</s>", "a")], unk_id=0
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_lower_case, "it changes text first, by Lowercase"),
        (_by_space, r'it cuts text by {"type": "Whitespace"}, and known rules are gpt-2, smollm'),
        (_unigram, "its model is Unigram, not BPE"),
    ],
)
def test_tokenizers_that_llama_cpp_lacks_are_refused(
    tiny_assistant: VisionLanguageModel, tmp_path: Path, change: Any, reason: str
) -> None:
    tokenizer = tiny_assistant.tokenizer
    change(tokenizer.backend_tokenizer)
    with pytest.raises(LaternaError, match=reason):
        export(tiny_assistant, tmp_path / "out", "gguf")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["own", "vicuna_v1"])
def test_the_template_reads_chats_as_llama_cpp_hands_them_over(
    tiny_assistant: VisionLanguageModel, kind: str
) -> None:
    template = tiny_assistant.template
    if kind == "vicuna_v1":
        template = SHIPPED_TEMPLATES[kind].read_text(encoding="utf-8")
    rendered = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(
        for_llama_cpp(template, "</s>")
    )
    turns = [
        Turn(role="user", text="<image>\nWhat is it?"),
        Turn(role="assistant", text="A cup."),
        Turn(role="user", text="And\n<image>\nthis 'one'?"),
    ]
    ours = render_prompt(
        [replace(turn, text=turn.text.replace("<image>", "<__media__>")) for turn in turns],
        tiny_assistant.tokenizer,
        template,
        image_mark="<__media__>",
    )
    assert "<__media__>\nWhat is it?" in ours and "A cup.</s>" in ours
    strings = [{"role": turn.role, "content": turn.text.replace("<image>", "<__media__>")}
               for turn in turns]  # fmt: skip
    pieces = [
        {"role": turn["role"], "content": [{"type": "text", "text": text}
                                           for text in turn["content"].split("\n")]}
        for turn in strings
    ]  # fmt: skip
    for messages in (strings, pieces):
        for eos in ("</s>", ""):
            assert ours == rendered.render(
                messages=messages, add_generation_prompt=True, bos_token="<s>", eos_token=eos
            )
