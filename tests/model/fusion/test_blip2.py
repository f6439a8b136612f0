"""BLIP-2 with a T5 of transformers: the same weights give the same logits and the same answers."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import Blip2Config, Blip2ForConditionalGeneration, BlipImageProcessorPil

import laterna
from laterna.data.masking import tokenize_prompt
from laterna.errors import LaternaError
from laterna.inference.generation import generate_rows
from laterna.model.exporters import export
from laterna.model.importers import read_model
from laterna.model.vlm import VisionLanguageModel
from laterna.records import IMAGE_TOKEN_INDEX, Turn

IMAGES = [Image.effect_noise((40, 30), 80).convert("RGB"), Image.new("RGB", (28, 28), "red")]


def made(folder: Path, tokenizer: Any, **text: Any) -> Path:
    """A tiny BLIP-2 of random weights, as its processor numbers the image's token."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = None
    tokenizer.add_special_tokens(
        {"additional_special_tokens": ["<image>"]}, replace_extra_special_tokens=False
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = Blip2Config(
            vision_config={
                "hidden_size": 24,
                "image_size": 28,
                "patch_size": 14,
                "intermediate_size": 48,
                "num_hidden_layers": 3,
                "num_attention_heads": 2,
                "initializer_range": 0.3,
            },
            qformer_config={
                "hidden_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 1,
                "intermediate_size": 256,
                "encoder_hidden_size": 24,
                "vocab_size": 50,
                "initializer_range": 0.2,
            },
            text_config={"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id,
                         "eos_token_id": tokenizer.eos_token_id, **text},
            num_query_tokens=3,
            image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        )  # fmt: skip
        model = Blip2ForConditionalGeneration(config)
        model.query_tokens.data.normal_()
        model.language_projection.weight.data.normal_(std=0.3)
        head = model.get_output_embeddings()
        if head.weight is model.get_input_embeddings().weight:  # apart, as in published files
            head.weight = torch.nn.Parameter(torch.randn_like(head.weight))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    BlipImageProcessorPil(size={"height": 28, "width": 28}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> Path:
    return made(
        tmp_path_factory.mktemp("blip2") / "tiny",
        tiny_tokenizer,
        model_type="t5",
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        initializer_factor=4.0,
        decoder_start_token_id=tiny_tokenizer.pad_token_id,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    )


def their_inputs(model: VisionLanguageModel, ids: list[int], config: Any) -> dict[str, Any]:
    image, queries = config.image_token_index, config.num_query_tokens
    expanded = [one for token in ids for one in ([image] * queries if token < 0 else [token])]
    return {"input_ids": torch.tensor([expanded]), "pixel_values": model.prepare(IMAGES[:1])}


def require_alike(folder: Path, ours: VisionLanguageModel) -> None:
    theirs = Blip2ForConditionalGeneration.from_pretrained(folder).eval()
    turn = Turn(role="user", text="<image>\nWhat colour is the cup?")
    ids = tokenize_prompt([turn], ours.tokenizer, ours.template)
    assert ids.count(IMAGE_TOKEN_INDEX) == 1
    given = their_inputs(ours, ids, theirs.config)
    images = list(ours.encode_images(IMAGES[:1]))
    inputs = ours.fusion.generation_inputs(ours.language, [ids], images)
    start = torch.tensor([[theirs.config.text_config.decoder_start_token_id, 11, 12, 13]])
    wanted = theirs(**given, decoder_input_ids=start).logits
    found = ours.language(**inputs, decoder_input_ids=start).logits
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    blind = theirs(**{**given, "pixel_values": 0 * given["pixel_values"]}, decoder_input_ids=start)
    assert not torch.allclose(blind.logits, wanted, atol=1e-2)
    answer = theirs.generate(**given, max_new_tokens=9, do_sample=False)[0, 1:].tolist()
    assert generate_rows(ours, inputs, 9)[0] == answer
    ends = (ours.language.get_input_embeddings(), ours.language.get_output_embeddings())
    assert not torch.equal(ends[0].weight, ends[1].weight)


@torch.no_grad()
def test_a_whole_network_of_its_weights_has_its_logits_and_its_answer(folder: Path) -> None:
    require_alike(folder, read_model(folder))


def test_it_is_asked_as_its_paper_asks(folder: Path) -> None:
    model = read_model(folder)
    turn = Turn(role="user", text="<image>\nWhat is it?")
    ids = tokenize_prompt([turn], model.tokenizer, model.template)
    assert ids[0] == IMAGE_TOKEN_INDEX
    assert model.tokenizer.decode(ids[1:]) == "Question: What is it? Answer:" + (
        model.tokenizer.eos_token
    )


@torch.no_grad()
def test_what_is_exported_is_read_back_by_both(folder: Path, tmp_path: Path) -> None:
    assistant = laterna.load(folder)
    out = assistant.export(tmp_path / "out", to="blip2")
    require_alike(out, read_model(out))
    answers = [one.answer(IMAGES[0], "What is it?") for one in (assistant, laterna.load(out))]
    assert answers[0] == answers[1]
    saved = assistant.save(tmp_path / "saved")
    assert laterna.load(saved).answer(IMAGES[0], "What is it?") == answers[0]


@pytest.mark.parametrize("to", ["hf", "gguf"])
def test_other_formats_say_which_can(folder: Path, tmp_path: Path, to: str) -> None:
    if to == "gguf":
        pytest.importorskip("gguf")
    with pytest.raises(LaternaError, match=r"an encoder with a decoder.*--to blip2"):
        laterna.load(folder).export(tmp_path / "out", to=to)
    assert not (tmp_path / "out").exists()


def test_other_language_models_and_options_are_refused(
    folder: Path, tmp_path: Path, tiny_tokenizer: Any
) -> None:
    other = made(
        tmp_path / "opt",
        tiny_tokenizer,
        model_type="opt",
        hidden_size=32,
        ffn_dim=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        word_embed_proj_dim=32,
    )
    with pytest.raises(LaternaError, match="type 'opt'; Laterna reads those with an encoder"):
        read_model(other)
    with pytest.raises(LaternaError, match="leave --language and --vision out"):
        read_model(folder, language="elsewhere")


def test_a_network_of_other_parts_is_refused(tiny_assistant: Any, tmp_path: Path) -> None:
    with pytest.raises(LaternaError, match=r"fusion.kind is not as in BLIP-2"):
        export(tiny_assistant, tmp_path / "out", to="blip2")
