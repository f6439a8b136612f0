"""The shipped nano bases are what the committed scripts make."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, CLIPVisionConfig, LlamaConfig

import laterna.world
from laterna.world.toys import IMAGE_SIDE
from pretrain_nano.language import language_config
from pretrain_nano.settings import LanguagePretraining
from pretrain_nano.tokenizer import BOS, CHAT_TEMPLATE, EOS, PAD
from pretrain_nano.vision import CLIP_MEAN, CLIP_STD, vision_config

MODELS = Path(laterna.world.__file__).parent / "models"
WRITTEN_BY_SAVING = {"architectures", "dtype", "transformers_version", "_name_or_path"}
"""Keys that `save_pretrained` adds: they say what was saved and by which version."""


def shipped(part: str) -> Path:
    folder = MODELS / part
    if not (folder / "config.json").is_file():
        pytest.skip(f"no shipped model yet in laterna/world/models/{part}")
    return folder


def fields(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in WRITTEN_BY_SAVING}


def test_the_vision_encoder_is_the_scripts() -> None:
    folder = shipped("vision")
    saved = json.loads((folder / "config.json").read_text())
    assert saved["architectures"] == ["CLIPVisionModel"]
    written = CLIPVisionConfig.from_dict(saved)
    assert fields(written.to_dict()) == fields(vision_config().to_dict())
    assert (written.image_size, written.patch_size, written.num_hidden_layers) == (112, 14, 4)


def test_the_image_processor_is_the_scripts() -> None:
    settings = json.loads((shipped("vision") / "preprocessor_config.json").read_text())
    side = {"height": IMAGE_SIDE, "width": IMAGE_SIDE}
    assert settings["size"] == settings["crop_size"] == side
    assert settings["do_center_crop"] is False
    assert tuple(settings["image_mean"]) == CLIP_MEAN
    assert tuple(settings["image_std"]) == CLIP_STD


def test_the_language_model_is_the_scripts() -> None:
    folder = shipped("language")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    saved = json.loads((folder / "config.json").read_text())
    assert saved["architectures"] == ["LlamaForCausalLM"]
    written = LlamaConfig.from_dict(saved)
    assert fields(written.to_dict()) == fields(language_config(tokenizer).to_dict())


def test_the_tokenizer_is_the_scripts() -> None:
    tokenizer = AutoTokenizer.from_pretrained(shipped("language"))
    assert 259 < len(tokenizer) <= LanguagePretraining().vocabulary
    assert tokenizer.chat_template == CHAT_TEMPLATE
    assert (tokenizer.pad_token, tokenizer.bos_token, tokenizer.eos_token) == (PAD, BOS, EOS)
    assert tokenizer.convert_tokens_to_ids([PAD, BOS, EOS]) == [0, 1, 2]
    text = "What colour is the teddy bear? Größe: 7 ≥ 3."
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_all_that_ships_is_a_few_megabytes() -> None:
    sizes = [
        path.stat().st_size for part in ("vision", "language") for path in shipped(part).iterdir()
    ]
    assert sum(sizes) < 12_000_000
