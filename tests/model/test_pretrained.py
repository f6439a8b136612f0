from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from laterna.errors import LaternaError
from laterna.model.pretrained import load_weights


@pytest.fixture
def folder(tiny_models: Path, tmp_path: Path) -> Path:
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((tiny_models / "language" / name).read_bytes())
    return tmp_path


def load(folder: Path) -> object:
    return load_weights(AutoModelForCausalLM, str(folder), what="language model")


def test_a_missing_weight_is_an_error_and_not_random_numbers(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(LaternaError, match=r"1 weights .* model\.layers\.1\.mlp\.up_proj\.weight"):
        load(folder)


def test_a_damaged_weight_file_is_named(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"not a tensor in here")
    with pytest.raises(LaternaError, match="cannot read the language model"):
        load(folder)


def test_pickled_weights_are_not_read(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(LaternaError, match="cannot read the language model"):
        load(folder)
