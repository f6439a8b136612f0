"""`laterna import` and `laterna export`: from checkpoint to other engines' folders and back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

import laterna
from laterna.cli import main
from laterna.inference.assistant import Assistant
from laterna.model.language.adapters import add_lora, has_lora
from laterna.model.vlm import VisionLanguageModel
from laterna.recipe import LoraSettings

IMAGE = Image.new("RGB", (30, 40), (10, 200, 90))
TEXT = "<s>USER: <image>\nWhat is it? ASSISTANT: A red bicycle"


def test_out_and_back(
    tiny_assistant: VisionLanguageModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, hf, back = (str(tmp_path / name) for name in ("checkpoint", "hf", "back"))
    Assistant(tiny_assistant).save(checkpoint)
    assert main(["export", checkpoint, hf, "--to", "hf"]) == 0
    line = capsys.readouterr().out
    assert line.startswith(f"made {hf} of {checkpoint}: model.safetensors (")
    assert main(["import", hf, back]) == 0
    line = capsys.readouterr().out
    assert f"made the checkpoint {back} of {hf} (inside: connector, language, vision;" in line
    assert "images: pad" in line
    before, after = (laterna.load(folder).logits([IMAGE], TEXT) for folder in (checkpoint, back))
    assert torch.equal(after[:, : before.shape[1]], before)


def test_a_checkpoint_with_adapters_is_merged(
    tiny_assistant: VisionLanguageModel, tmp_path: Path
) -> None:
    add_lora(tiny_assistant.language, LoraSettings(r=2, alpha=4))
    checkpoint, merged = tmp_path / "checkpoint", tmp_path / "merged"
    Assistant(tiny_assistant).save(checkpoint)
    assert has_lora(laterna.load(checkpoint).model.language)
    assert main(["import", str(checkpoint), str(merged), "--merge"]) == 0
    assert not has_lora(laterna.load(merged).model.language)
    assert (merged / "language" / "model.safetensors").is_file()


def test_both_gguf_files_are_named(
    tiny_assistant: VisionLanguageModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Assistant(tiny_assistant).save(tmp_path / "checkpoint")
    folder = str(tmp_path / "gguf")
    assert main(["export", str(tmp_path / "checkpoint"), folder, "--to", "gguf"]) == 0
    line = capsys.readouterr().out
    assert "mmproj.gguf (" in line
    assert "model.gguf (" in line


def test_what_cannot_be_exported_is_an_error_of_the_users(
    tiny_assistant: VisionLanguageModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Assistant(tiny_assistant).save(tmp_path / "checkpoint")
    folder = str(tmp_path / "out")
    arguments = ["export", str(tmp_path / "checkpoint"), folder, "--to", "gguf"]
    assert main([*arguments, "--precision", "bf16"]) == 2
    assert "precision 'bf16': this format has f16, f32" in capsys.readouterr().err
    (tmp_path / "nothing").mkdir()
    assert main(["import", str(tmp_path / "nothing"), folder]) == 2
    assert "not a Laterna checkpoint" in capsys.readouterr().err
