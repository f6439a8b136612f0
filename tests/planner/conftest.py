"""Folders that hold nothing but a config.json, of LLaVA-1.5's models and of LLaVA's."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def configs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `clip-224`, `clip-336` (CLIP-L/14) and `vicuna-7b`, without weights."""
    from transformers import CLIPVisionConfig, LlamaConfig

    folder = tmp_path_factory.mktemp("configs")
    for side in (224, 336):
        CLIPVisionConfig(
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=24,
            num_attention_heads=16,
            image_size=side,
            patch_size=14,
        ).save_pretrained(folder / f"clip-{side}")
    LlamaConfig(
        vocab_size=32000,
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=32,
        num_attention_heads=32,
    ).save_pretrained(folder / "vicuna-7b")
    return folder
