"""IDEFICS (v1) of transformers: the same weights give the same logits and the same answers."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from PIL import Image
from transformers import IdeficsConfig, IdeficsForVisionText2Text, IdeficsImageProcessorPil

import laterna
from laterna.errors import LaternaError
from laterna.inference.assistant import Assistant
from laterna.inference.batching.pace import EngineSettings
from laterna.inference.batching.steps import Slots
from laterna.inference.engine import Engine
from laterna.inference.generation import generate_rows, generate_tokens
from laterna.inference.sampling import Decoding
from laterna.model.build import build_from_recipe
from laterna.model.exporters.idefics import AROUND_IMAGE
from laterna.model.importers import read_model
from laterna.model.vlm import VisionLanguageModel
from laterna.recipe import Recipe
from laterna.records import IMAGE_TOKEN_INDEX, Turn

from .. import tiny

IMAGES = [Image.effect_noise((40, 30), 80).convert("RGB"), Image.new("RGB", (28, 28), "red")]


def open_gates(model: Any) -> None:
    """Let images count, as they do after training."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "alpha_" in name:
                weight.fill_(0.8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> Path:
    """A tiny IDEFICS of random weights: 4 layers, a block before the 1st and 3rd."""
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = None
    rows = len(tokenizer)
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [AROUND_IMAGE, "<image>"]}, replace_extra_special_tokens=False
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = IdeficsForVisionText2Text(
            IdeficsConfig(
                vocab_size=rows,
                additional_vocab_size=2,
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=4,
                num_attention_heads=4,
                max_position_embeddings=256,
                initializer_range=0.2,
                cross_layer_interval=2,
                qk_layer_norms=True,
                use_resampler=True,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
                vision_config={
                    "embed_dim": 24,
                    "image_size": 28,
                    "patch_size": 14,
                    "intermediate_size": 48,
                    "num_hidden_layers": 3,
                    "num_attention_heads": 2,
                },
                perceiver_config={
                    "use_resampler": True,
                    "resampler_n_latents": 3,
                    "resampler_depth": 2,
                    "resampler_n_heads": 2,
                    "resampler_head_dim": 8,
                    "qk_layer_norms_perceiver": True,
                },
            )
        )
    open_gates(model)
    made = tmp_path_factory.mktemp("idefics") / "tiny"
    model.save_pretrained(made)
    tokenizer.save_pretrained(made)
    IdeficsImageProcessorPil(image_size=28).save_pretrained(made)
    return made


def theirs_and_ours(folder: Path) -> tuple[Any, VisionLanguageModel]:
    return IdeficsForVisionText2Text.from_pretrained(folder).eval(), read_model(folder)


def prompt(model: VisionLanguageModel) -> list[int]:
    """Text, an image, text, an image, text."""
    words = model.tokenizer("Is there a banana?").input_ids
    around = model.tokenizer.convert_tokens_to_ids(AROUND_IMAGE)
    image = [around, IMAGE_TOKEN_INDEX, around]
    return [1, *words[:4], *image, *words, *image, *words[:5]]


def their_inputs(model: VisionLanguageModel, ids: list[int]) -> dict[str, torch.Tensor]:
    image = model.tokenizer.convert_tokens_to_ids("<image>")
    marks = torch.tensor(ids) == IMAGE_TOKEN_INDEX
    seen = marks.long().cumsum(0)
    mask = torch.stack([seen == 1, seen == 2], dim=1).long()
    return {
        "input_ids": torch.tensor([[image if one < 0 else one for one in ids]]),
        "pixel_values": model.prepare(IMAGES)[None],
        "image_attention_mask": mask[None],
    }


@torch.no_grad()
def test_a_whole_network_of_its_weights_has_its_logits_and_its_answer(folder: Path) -> None:
    theirs, ours = (model.double() for model in theirs_and_ours(folder))
    ids = prompt(ours)
    given = their_inputs(ours, ids)
    given["pixel_values"] = given["pixel_values"].double()
    wanted = theirs(**given, use_cache=False).logits[0]
    images = list(ours.encode_images(IMAGES))
    inputs = ours.fusion.generation_inputs(ours.language, [ids], images)
    with ours.fusion.beside(inputs["media"]):
        found = ours.language(inputs_embeds=inputs["inputs_embeds"], use_cache=False).logits[0]
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    blind = theirs(**{**given, "pixel_values": 0 * given["pixel_values"]}, use_cache=False).logits
    assert not torch.allclose(blind[0], wanted, atol=1e-2)
    answer = theirs.generate(
        **given, attention_mask=torch.ones_like(given["input_ids"]), max_new_tokens=12,
        do_sample=False,
    )[0, len(ids) :].tolist()  # fmt: skip
    assert generate_rows(ours, inputs, 12)[0] == answer


@torch.no_grad()
def test_the_engine_answers_many_at_once_as_generate_does_alone(folder: Path) -> None:
    """Of several lengths, with two images, one and none."""
    model = read_model(folder)
    texts = [
        "<image>\nWhat colour is the bicycle?",
        "What? " * 9,
        "<image> and <image>: which?",
        "Is there a cup?\n<image>" + " No." * 20,
    ]
    shown = [IMAGES[:1], [], IMAGES, IMAGES[1:]]
    asked = [
        ([Turn(role="user", text=text)], images) for text, images in zip(texts, shown, strict=True)
    ]
    engine = Engine(model, EngineSettings(rows=3, chunk=16))
    assert isinstance(engine._steps, Slots)
    together = [engine.submit(*one, Decoding(max_new_tokens=10)) for one in asked]
    found = [[token.id for token in one.result().tokens] for one in together]
    alone = [generate_tokens(model, [one], Decoding(max_new_tokens=10))[0] for one in asked]
    assert found == alone
    assert len({tuple(one) for one in found}) > 1


@torch.no_grad()
def test_it_is_written_back_as_it_was_read(folder: Path, tmp_path: Path) -> None:
    theirs = IdeficsForVisionText2Text.from_pretrained(folder)
    again = laterna.load(folder).export(tmp_path / "out", to="idefics")
    written = IdeficsForVisionText2Text.from_pretrained(again)
    before, after = theirs.state_dict(), written.state_dict()
    assert before.keys() == after.keys()
    different = [name for name in before if not torch.equal(before[name], after[name])]
    assert different == []
    ours = read_model(again)
    given = their_inputs(ours, prompt(ours))
    torch.testing.assert_close(
        written(**given, use_cache=False).logits, theirs(**given, use_cache=False).logits
    )


def test_formats_without_cross_attention_refuse_it(folder: Path, tmp_path: Path) -> None:
    assistant = laterna.load(folder)
    for format_name in ("hf", "gguf"):
        with pytest.raises(LaternaError, match="'cross_attention' cannot be exported: "):
            assistant.export(tmp_path / format_name, to=format_name)
        assert not (tmp_path / format_name).exists()


def test_what_idefics_does_otherwise_is_named(
    tiny_assistant: VisionLanguageModel, tmp_path: Path
) -> None:
    with pytest.raises(LaternaError, match=r"reads images by gated cross-attention.*--to hf"):
        Assistant(tiny_assistant).export(tmp_path / "out", to="idefics")


def as_open_flamingo(model: VisionLanguageModel, rows: torch.Tensor) -> dict[str, torch.Tensor]:
    """The weights of a network by the names that OpenFlamingo's checkpoints give them."""
    named = {"lang_encoder.transformer.wte.weight": rows}
    renamed = {"features_norm": "0.norm_media", "latents_norm": "0.norm_latents"}
    for name, weight in model.connector.state_dict().items():
        for ours, theirs in {
            **renamed,
            "attention.q_proj": "0.to_q",
            "attention.o_proj": "0.to_out",
            "ff.": "1.",
        }.items():
            name = name.replace(ours, theirs)
        named[f"perceiver.{name}"] = weight
    for name, weight in model.fusion.state_dict().items():
        if name == "mark":
            continue
        _, number, rest = name.split(".", 2)
        for ours, theirs in {
            "attention_gate": "attn_gate",
            "attention.q_proj": "attn.to_q",
            "attention.o_proj": "attn.to_out",
        }.items():
            rest = rest.replace(ours, theirs)
        rest = f"attn.{rest}" if rest.startswith("norm.") else rest
        named[f"lang_encoder.transformer.blocks.{number}.gated_cross_attn_layer.{rest}"] = weight
    for name in [one for one in named if "attention.k_proj" in one]:
        values = named.pop(name.replace("k_proj", "v_proj"))
        inside = "0.to_kv" if name.startswith("perceiver") else "attn.to_kv"
        both = name.replace("attention.k_proj", inside)
        named[both] = torch.cat([named.pop(name), values])
    return named


@torch.no_grad()
def test_an_open_flamingo_checkpoint_is_read(
    tiny_recipe: Recipe, tiny_models: Path, tmp_path: Path
) -> None:
    recipe = tiny.flamingo(tiny_recipe, heads=1, head_width=64, gate=0.6)
    connector = replace(recipe.connector, heads=2, head_width=64)
    vision = replace(tiny_recipe.vision, layer=-1)
    model = build_from_recipe(replace(recipe, connector=connector, vision=vision))
    known = len(model.tokenizer)
    own = model.language.get_input_embeddings().weight
    rows = torch.cat([own[:known], torch.randn(1, 32), model.fusion.mark[None]])  # type: ignore[index]
    torch.save({"model_state_dict": as_open_flamingo(model, rows)}, tmp_path / "checkpoint.pt")
    with pytest.raises(LaternaError, match=r"name both with --vision and --language"):
        read_model(tmp_path)
    language, encoder = str(tiny_models / "language"), str(tiny_models / "vision")
    again = read_model(tmp_path, language=language, vision=encoder)
    ids = [1, 20, IMAGE_TOKEN_INDEX, 30, 31, IMAGE_TOKEN_INDEX, 40]
    pixels, found = again.prepare(IMAGES), []
    for one in (model, again):
        inputs = one.fusion.generation_inputs(one.language, [ids], one.connect(one.vision(pixels)))
        with one.fusion.beside(inputs["media"]):
            found.append(one.language(inputs_embeds=inputs["inputs_embeds"]).logits[0, :, :known])
    torch.testing.assert_close(found[1], found[0])
    assert again.recipe is not None
    assert again.recipe.fusion.cross_attention.every == 1
    assert again.prepare.fit == "crop"
    assert again.end_of_turn() == [2, known]
    torch.testing.assert_close(again.language.get_input_embeddings().weight[known], rows[known])
