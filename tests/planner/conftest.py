"""Folders that hold nothing but a config.json, of LLaVA-1.5's models and of LLaVA's."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..tiny import clip_config, llama_config


@pytest.fixture(scope="session")
def configs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `clip-224`, `clip-336` (CLIP-L/14) and `vicuna-7b`, without weights."""

    folder = tmp_path_factory.mktemp("configs")
    for side in (224, 336):
        clip_config(1024, 4096, 24, 16, side).save_pretrained(folder / f"clip-{side}")
    llama_config(32000, 4096, 11008, 32, 32).save_pretrained(folder / "vicuna-7b")
    return folder
