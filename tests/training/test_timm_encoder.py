"""An assistant over an encoder of timm trains it, is read back, and answers as before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from PIL import Image

from laterna.errors import LaternaError
from laterna.inference.assistant import Assistant
from laterna.model.build import build_from_recipe
from laterna.model.checkpoint import load_checkpoint, read_manifest
from laterna.recipe import LoraSettings, Mode, PartSettings, Recipe, VisionSettings
from laterna.training.run import train
from laterna.training.telemetry import read_metrics

try:
    import timm
except (ImportError, RuntimeError, OSError) as error:  # torchvision fails in each of these ways
    pytest.skip(f"timm does not import here: {error}", allow_module_level=True)

from timm.models import save_for_hf

VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 2}
ENCODERS: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16_224": {**VIT, "reg_tokens": 1},
    "test_resnet": {},
}
TEXT = "<s>USER: <image>\nWhat colour is it? ASSISTANT: red"
IMAGE = Image.new("RGB", (28, 28), (20, 20, 230))


def with_timm(recipe: Recipe, architecture: str, mode: Mode, folder: Path) -> Recipe:
    """The recipe with an encoder of timm of 16 or 4 patches, trained in stage 2."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        net = timm.create_model(architecture, num_classes=0, **ENCODERS[architecture])
    stated = {**net.pretrained_cfg, "input_size": (3, 32, 32)}
    save_for_hf(net, str(folder), {"pretrained_cfg": stated}, safe_serialization=True)
    instruct = msgspec.structs.replace(
        recipe.instruct, vision=PartSettings(mode=mode, lr=1e-3), epochs=4
    )
    vision = VisionSettings(source=str(folder), layer=-2)
    return msgspec.structs.replace(
        recipe, vision=vision, instruct=instruct, lora=LoraSettings(r=2, alpha=4)
    )


@pytest.mark.parametrize("architecture", ENCODERS)
@pytest.mark.parametrize("mode", ["frozen", "full", "last-1"])
def test_it_trains_is_read_back_and_answers(
    recipe: Recipe, architecture: str, mode: Mode, tmp_path: Path
) -> None:
    ours = with_timm(recipe, architecture, mode, tmp_path / "encoder")
    before = build_from_recipe(ours)
    assert (
        before.image_tokens.tokens
        == {"vit_tiny_patch16_224": 16, "test_resnet": 4}[  # type: ignore[union-attr]
            architecture
        ]
    )
    out = train(ours, stage="instruct", out=tmp_path / "out")
    losses = [step.loss for step in read_metrics(out / "metrics.jsonl")]
    assert losses[-1] < 0.9 * losses[0]
    after = load_checkpoint(out)
    assert ("vision" in read_manifest(out).parts) == (mode != "frozen")
    weights = before.vision.weights()
    changed = {
        name.removeprefix("timm_model.").split(".")[0]
        for name, weight in after.vision.weights().items()
        if not torch.equal(weight, weights[name])
    }
    if mode == "frozen":
        assert changed == set()
    elif mode == "full":
        assert (
            changed
            > {"vit_tiny_patch16_224": {"patch_embed"}, "test_resnet": {"conv1"}}[architecture]
        )
    else:  # of the penultimate layer, the block or the stage before it
        assert (
            changed == {"vit_tiny_patch16_224": {"blocks"}, "test_resnet": {"layer3"}}[architecture]
        )
    Assistant(after).save(tmp_path / "again")
    again = load_checkpoint(tmp_path / "again")
    assert torch.equal(again.logits([IMAGE], TEXT), after.logits([IMAGE], TEXT))
    answer = Assistant(after).answer(IMAGE, "What colour is it?", max_new_tokens=4)
    assert Assistant(again).answer(IMAGE, "What colour is it?", max_new_tokens=4) == answer != ""


@pytest.mark.parametrize(("mode", "blocks"), [("lora", {0, 1}), ("lora-last-1", {1})])
def test_adapters_train_beside_it(
    recipe: Recipe, mode: Mode, blocks: set[int], tmp_path: Path
) -> None:
    ours = with_timm(recipe, "vit_tiny_patch16_224", mode, tmp_path / "encoder")
    out = train(ours, stage="instruct", out=tmp_path / "out")
    assert read_manifest(out).adapters == ("vision",)
    after, plain = load_checkpoint(out), build_from_recipe(ours)
    pixels = after.prepare([IMAGE])
    assert not torch.allclose(after.vision(pixels), plain.vision(pixels), atol=1e-4)
    names = [name for name, _ in after.vision.named_parameters() if ".lora_" in name]
    assert {int(name.split("blocks.")[1].split(".")[0]) for name in names if "blocks" in name} == (
        blocks
    )
    assert all("blocks" in name for name in names) or mode == "lora"


def test_adapters_in_the_last_stages_of_a_backbone_are_refused(
    recipe: Recipe, tmp_path: Path
) -> None:
    ours = with_timm(recipe, "test_resnet", "lora-last-1", tmp_path / "encoder")
    ours = msgspec.structs.replace(ours, lora=LoraSettings(r=2, alpha=4, targets=("conv1",)))
    with pytest.raises(LaternaError, match=r"does not keep its layers in one list; use `lora`"):
        train(ours, stage="instruct", out=tmp_path / "out")
