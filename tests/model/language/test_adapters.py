"""Adapters: they start as nothing, train alone, are stored small, and merge into the weights."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import msgspec
import pytest
import torch
from peft import PeftModel
from PIL import Image
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, CLIPVisionModel

from laterna.errors import LaternaError
from laterna.model.checkpoint import load_checkpoint, read_manifest, save_checkpoint
from laterna.model.language.adapters import (
    add_lora,
    has_lora,
    load_lora,
    lora_layers,
    merge_lora,
    merged_weights,
    own_weights,
    save_lora,
    train_lora,
)
from laterna.model.sources import BUILTIN
from laterna.model.vlm import VisionLanguageModel
from laterna.recipe import LoraSettings, PartName, Recipe

SMALL = LoraSettings(r=4, alpha=8)
TEXT = "<s>USER: <image>\nWhat is it? ASSISTANT: A red bicycle"
IMAGE = Image.new("RGB", (30, 40), (10, 200, 90))
PARTS: tuple[PartName, ...] = ("vision", "language")


def taught(module: nn.Module, settings: LoraSettings = SMALL) -> nn.Module:
    """Return the module with adapters that say something, the same in every run."""
    torch.manual_seed(0)
    add_lora(module, settings)
    module.eval()
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if ".lora_B." in name:
                weight.normal_(std=0.3)
    return module


def logits(assistant: VisionLanguageModel) -> torch.Tensor:
    return assistant.logits([IMAGE], TEXT)


@pytest.mark.parametrize("part", PARTS)
def test_fresh_adapters_change_nothing_and_are_all_that_trains(
    tiny_assistant: VisionLanguageModel, part: PartName
) -> None:
    module = tiny_assistant.adaptable()[part]
    before = logits(tiny_assistant)
    add_lora(module, SMALL)
    module.eval()
    assert has_lora(module)
    assert torch.equal(logits(tiny_assistant), before)
    trained = {name for name, weight in module.named_parameters() if weight.requires_grad}
    assert trained == {name for name, _ in module.named_parameters() if ".lora_" in name}
    train_lora(module, trains=False)
    assert not any(weight.requires_grad for weight in module.parameters())


def test_every_linear_layer_but_the_head_is_adapted(tiny_assistant: VisionLanguageModel) -> None:
    add_lora(tiny_assistant.language, SMALL)
    adapted = {
        name.split(".")[-4]
        for name, _ in tiny_assistant.language.named_parameters()
        if ".lora_A." in name
    }
    projections = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert adapted == projections
    # Llama of width 32, 2 of 4 heads for keys, 64 wide inside: r times what goes in and out.
    attention = 4 * (32 + 32) + 4 * (32 + 16) + 4 * (32 + 16) + 4 * (32 + 32)
    perceptron = 3 * 4 * (32 + 64)
    count = sum(w.numel() for w in tiny_assistant.language.parameters() if w.requires_grad)
    assert count == 2 * (attention + perceptron)


def test_targets_name_the_layers(tiny_assistant: VisionLanguageModel) -> None:
    add_lora(tiny_assistant.language, LoraSettings(r=2, alpha=4, targets=("q_proj", "v_proj")))
    names = {name.split(".")[-4] for name, _ in tiny_assistant.language.named_parameters()
             if ".lora_A." in name}  # fmt: skip
    assert names == {"q_proj", "v_proj"}


def test_layers_that_are_not_there_are_said_to_be_missing(
    tiny_assistant: VisionLanguageModel,
) -> None:
    with pytest.raises(LaternaError, match=r"lora\.targets = \['qkv'\]: "):
        add_lora(tiny_assistant.language, LoraSettings(targets=("qkv",)))


def test_adapters_are_not_added_twice(tiny_assistant: VisionLanguageModel) -> None:
    add_lora(tiny_assistant.language, SMALL)
    with pytest.raises(LaternaError, match="has adapters already"):
        add_lora(tiny_assistant.language, SMALL)


@pytest.mark.parametrize("part", PARTS)
def test_merged_weights_say_the_same_without_adapters(
    tiny_assistant: VisionLanguageModel, tiny_models: Path, part: PartName
) -> None:
    module = tiny_assistant.adaptable()[part]
    names, before = list(module.state_dict()), logits(tiny_assistant)
    taught(module)
    with_adapters = logits(tiny_assistant)
    assert (with_adapters - before).abs().max() > 0.05
    assert list(own_weights(module)) == names
    merged = merged_weights(module)
    assert has_lora(module)
    merge_lora(module)
    assert not has_lora(module)
    assert list(module.state_dict()) == names
    assert all(torch.equal(merged[name], weight) for name, weight in module.state_dict().items())
    torch.testing.assert_close(logits(tiny_assistant), with_adapters, atol=1e-5, rtol=0)
    add_lora(module, SMALL)  # room for others


@pytest.mark.parametrize("changed", [set(), {"language"}, {"language", "vision"}])
def test_a_checkpoint_brings_adapters_back(
    tiny_assistant: VisionLanguageModel, tiny_recipe: Recipe, tmp_path: Path, changed: set[PartName]
) -> None:
    with torch.no_grad():
        for part in changed:
            for weight in tiny_assistant.parts()[part].parameters():
                weight.add_(0.05 * torch.randn_like(weight))
    tiny_assistant.changed = {"connector", *changed}
    for module in tiny_assistant.adaptable().values():
        taught(module)
    folder = save_checkpoint(
        tmp_path / "out", tiny_assistant, tiny_recipe, stage="instruct", figures={}
    )
    manifest = read_manifest(folder)
    assert set(manifest.adapters) == {"vision", "language"}
    for part in PARTS:
        assert (folder / part).is_dir() == (part in changed)
    again = load_checkpoint(folder)
    assert torch.equal(logits(again), logits(tiny_assistant))
    assert again.changed == tiny_assistant.changed
    assert not any(weight.requires_grad for weight in again.language.parameters())
    train_lora(again.language, trains=True)
    assert any(weight.requires_grad for weight in again.language.parameters())


def test_a_checkpoint_with_adapters_is_small(
    tiny_assistant: VisionLanguageModel, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    taught(tiny_assistant.language, LoraSettings(r=1, alpha=2, targets=("q_proj",)))
    folder = save_checkpoint(
        tmp_path / "out", tiny_assistant, tiny_recipe, stage="instruct", figures={}
    )
    files = sorted(path.name for path in (folder / "language_adapters").iterdir())
    assert files == ["adapter_config.json", "adapter_model.safetensors"]
    assert (folder / "language_adapters" / "adapter_model.safetensors").stat().st_size < 2000


def test_peft_reads_them_over_the_same_base(
    tiny_assistant: VisionLanguageModel, tiny_models: Path, tmp_path: Path
) -> None:
    ids = torch.arange(9)[None]
    taught(tiny_assistant.language)
    save_lora(tiny_assistant.language, tmp_path / "language")
    base = AutoModelForCausalLM.from_pretrained(tiny_models / "language")
    theirs = PeftModel.from_pretrained(base, tmp_path / "language").eval()
    with torch.no_grad():
        assert torch.equal(theirs(ids).logits, tiny_assistant.language(ids).logits)
    vision = tiny_assistant.vision.model
    taught(vision)
    save_lora(vision, tmp_path / "vision")
    whole = CLIPVisionModel.from_pretrained(tiny_models / "vision")
    theirs = PeftModel.from_pretrained(whole, tmp_path / "vision").eval()
    pixels = tiny_assistant.prepare([IMAGE])
    with torch.no_grad():
        states = theirs(pixel_values=pixels, output_hidden_states=True).hidden_states
    torch.testing.assert_close(states[-2][:, 1:], tiny_assistant.vision(pixels))


def test_peft_reads_those_of_the_last_layers_over_the_same_base(
    tiny_assistant: VisionLanguageModel, tiny_models: Path, tmp_path: Path
) -> None:
    language, ids = tiny_assistant.language, torch.arange(9)[None]
    add_lora(language, SMALL, language.model.layers[1:])
    with torch.no_grad():
        for name, weight in language.named_parameters():
            if ".lora_B." in name:
                weight.normal_(std=0.3)
        save_lora(language.eval(), tmp_path / "language")
        base = AutoModelForCausalLM.from_pretrained(tiny_models / "language")
        before = base(ids).logits
        theirs = PeftModel.from_pretrained(base, tmp_path / "language").eval()(ids).logits
        assert torch.equal(theirs, language(ids).logits)
        assert (theirs - before).abs().max() > 0.05
    assert lora_layers(language) == [1]
    again = AutoModelForCausalLM.from_pretrained(tiny_models / "language")
    load_lora(again, tmp_path / "language")
    assert lora_layers(again) == [1]


def test_adapters_of_another_model_are_refused(
    tiny_assistant: VisionLanguageModel, tmp_path: Path
) -> None:
    taught(tiny_assistant.language)
    save_lora(tiny_assistant.language, tmp_path / "language")
    with pytest.raises(LaternaError, match="do not fit this part"):
        load_lora(tiny_assistant.vision.model, tmp_path / "language")
    (tmp_path / "language" / "adapter_model.safetensors").write_bytes(b"no")
    with pytest.raises(LaternaError, match="cannot read the adapters"):
        load_lora(tiny_assistant.vision.model, tmp_path / "language")


def test_a_layer_that_lacks_its_adapter_is_an_error(
    tiny_assistant: VisionLanguageModel, tiny_models: Path, tmp_path: Path
) -> None:
    taught(tiny_assistant.language, LoraSettings(r=2, alpha=2, targets=("q_proj",)))
    save_lora(tiny_assistant.language, tmp_path / "a")
    path = tmp_path / "a" / "adapter_config.json"
    config = json.loads(path.read_text())
    config["target_modules"] = ["q_proj", "v_proj"]
    path.write_text(json.dumps(config))
    other = AutoModelForCausalLM.from_pretrained(tiny_models / "language")
    with pytest.raises(LaternaError, match="4 are missing and 0 have no place"):
        load_lora(other, tmp_path / "a")


def test_the_defaults_are_llava_15s() -> None:
    assert msgspec.structs.asdict(LoraSettings()) == {
        "r": 128,
        "alpha": 256,
        "dropout": 0.05,
        "targets": (),
    }


@pytest.mark.slow
@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="needs `pip install bitsandbytes`")
def test_adapters_train_on_a_base_of_four_bits_and_go_on_the_whole_one(
    tmp_path: Path,
) -> None:
    source = BUILTIN["nano-llama"]  # wide enough for blocks of 64 weights
    quantized = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32)
    model = AutoModelForCausalLM.from_pretrained(source, quantization_config=quantized)
    torch.manual_seed(0)
    add_lora(model, SMALL)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    ids = torch.arange(3, 23)[None]
    losses = []
    for _ in range(8):
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    assert losses[-1] < losses[0] - 0.5
    assert all(
        ".lora_" in name for name, weight in model.named_parameters() if weight.requires_grad
    )
    save_lora(model, tmp_path / "adapters")
    whole = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    before = float(whole(input_ids=ids, labels=ids).loss)
    load_lora(whole, tmp_path / "adapters")
    assert float(whole(input_ids=ids, labels=ids).loss) < before - 0.5
