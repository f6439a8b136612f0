from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, CLIPVisionModel

from laterna.errors import LaternaError
from laterna.inference.assistant import Assistant
from laterna.model.build import build_from_recipe
from laterna.model.checkpoint import load_checkpoint, read_manifest, save_checkpoint
from laterna.model.language.adapters import add_lora
from laterna.model.vlm import VisionLanguageModel
from laterna.recipe import LoraSettings, PartName, Recipe

TEXT = "<s>USER: <image>\nWhat is it? ASSISTANT: A red bicycle"
IMAGE = Image.new("RGB", (30, 40), (10, 200, 90))


@pytest.fixture
def changed(tiny_assistant: VisionLanguageModel) -> VisionLanguageModel:
    """The tiny assistant with every weight moved a little."""
    with torch.no_grad():
        for weight in tiny_assistant.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    return tiny_assistant


def save(folder: Path, assistant: VisionLanguageModel, recipe: Recipe) -> Path:
    figures = {"loss_last": 0.25}
    return save_checkpoint(
        folder, assistant, recipe, stage="instruct", figures=figures, overwrite=True
    )


def test_all_parts_come_back_as_they_were(
    changed: VisionLanguageModel, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    changed.changed = {"vision", "connector", "language"}
    changed.template += "{# ours #}"
    folder = save(tmp_path / "out", changed, tiny_recipe)
    again = load_checkpoint(folder)
    assert torch.equal(again.logits([IMAGE], TEXT), changed.logits([IMAGE], TEXT))
    assert again.template == changed.template
    assert again.changed == changed.changed
    assert again.tokenizer(TEXT).input_ids == changed.tokenizer(TEXT).input_ids


def test_the_parts_are_folders_that_others_read(
    changed: VisionLanguageModel, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    changed.changed = {"vision", "connector", "language"}
    folder = save(tmp_path / "out", changed, tiny_recipe)
    language = AutoModelForCausalLM.from_pretrained(folder / "language")
    vision = CLIPVisionModel.from_pretrained(folder / "vision")
    assert torch.equal(language.lm_head.weight, changed.language.lm_head.weight)
    assert vision.config.num_hidden_layers == len(vision.encoder.layers) == 3
    assert len(AutoTokenizer.from_pretrained(folder / "tokenizer")) == len(changed.tokenizer)
    assert sorted(path.name for path in folder.iterdir()) == [
        ".laterna-made.json",
        "connector.safetensors",
        "language",
        "laterna.json",
        "template.jinja",
        "tokenizer",
        "vision",
    ]


@pytest.mark.parametrize("parts", [{"connector"}, {"connector", "language"}])
def test_untrained_parts_stay_where_they_are(
    changed: VisionLanguageModel, tiny_recipe: Recipe, tmp_path: Path, parts: set[PartName]
) -> None:
    changed.changed = parts
    folder = save(tmp_path / "out", changed, tiny_recipe)
    again, source = load_checkpoint(folder), build_from_recipe(tiny_recipe)
    for name in ("vision", "connector", "language"):
        expected = (changed if name in parts else source).parts()[name].state_dict()
        found = again.parts()[name].state_dict()
        assert all(torch.equal(found[key], expected[key]) for key in expected)
        assert (folder / name).is_dir() == (name in parts and name != "connector")


def test_the_manifest_holds_the_recipe_whole(
    changed: VisionLanguageModel, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    changed.changed = {"language"}
    manifest = read_manifest(save(tmp_path / "out", changed, tiny_recipe))
    assert manifest.recipe == tiny_recipe
    assert manifest.parts == ("connector", "language")
    assert (manifest.stage, manifest.figures) == ("instruct", {"loss_last": 0.25})


def test_saving_again_replaces_when_asked_and_a_failed_saving_does_not(
    changed: VisionLanguageModel, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    folder = save(tmp_path / "out", changed, tiny_recipe)
    (folder / "stray").write_text("somebody's")
    with pytest.raises(LaternaError, match=r"other files than its checkpoint \(stray\)"):
        Assistant(changed).save(folder, overwrite=True)
    (folder / "stray").unlink()
    with pytest.raises(LaternaError, match="holds a checkpoint; name a new folder, or replace"):
        save_checkpoint(folder, changed, tiny_recipe, stage=None, figures={})
    save(folder, changed, tiny_recipe)
    before = (folder / "connector.safetensors").read_bytes()
    with torch.no_grad():
        changed.connector.layers[0].weight.add_(1)  # type: ignore[operator]
    with pytest.raises(FileNotFoundError):
        save_checkpoint(
            folder,
            changed,
            tiny_recipe,
            stage="align",
            figures={},
            metrics=tmp_path / "no-such-file",
            overwrite=True,
        )
    assert (folder / "connector.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_connector_file_names_its_weights(
    changed: VisionLanguageModel, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    weights = load_file(save(tmp_path / "out", changed, tiny_recipe) / "connector.safetensors")
    assert {name: tuple(weight.shape) for name, weight in weights.items()} == {
        "layers.0.weight": (32, 24),
        "layers.0.bias": (32,),
        "layers.1.weight": (32, 32),
        "layers.1.bias": (32,),
    }


def test_what_is_no_checkpoint_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(LaternaError, match="nowhere: no such checkpoint folder"):
        load_checkpoint(tmp_path / "nowhere")
    with pytest.raises(LaternaError, match=r"not a Laterna checkpoint, it has no laterna\.json"):
        load_checkpoint(tmp_path)
    for content in (b"{", b"[]", b'{"format": 1}', b"\xff"):
        (tmp_path / "laterna.json").write_bytes(content)
        with pytest.raises(LaternaError, match=r"laterna\.json: "):
            load_checkpoint(tmp_path)


def test_another_format_names_both_versions(
    changed: VisionLanguageModel, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    folder = save(tmp_path / "out", changed, tiny_recipe)
    found = json.loads((folder / "laterna.json").read_text())
    found.update(format=7, laterna="9.1.0", novelty=True)
    (folder / "laterna.json").write_text(json.dumps(found))
    with pytest.raises(LaternaError, match=r"format 7, .* reads format 1; .*\(9\.1\.0\)"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    "missing",
    [
        "connector.safetensors",
        "template.jinja",
        "tokenizer",
        "language",
        "language/model.safetensors",
        "vision/preprocessor_config.json",
    ],
)
def test_a_missing_file_is_named(
    changed: VisionLanguageModel, tiny_recipe: Recipe, tmp_path: Path, missing: str
) -> None:
    changed.changed = {"vision", "language"}
    folder = save(tmp_path / "out", changed, tiny_recipe)
    path = folder / missing
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    with pytest.raises(LaternaError, match=missing.split("/", maxsplit=1)[0]):
        load_checkpoint(folder)


@pytest.mark.parametrize("how", ["flip", "cut"])
@pytest.mark.parametrize(
    "name",
    [
        "laterna.json",
        "connector.safetensors",
        "language/model.safetensors",
        "vision/model.safetensors",
        "tokenizer/tokenizer.json",
        "template.jinja",
    ],
)
def test_a_damaged_file_is_named(
    changed: VisionLanguageModel,
    tiny_recipe: Recipe,
    tmp_path: Path,
    name: str,
    how: str,
    damage: Callable[[Path, str], None],
) -> None:
    changed.changed = {"vision", "language"}
    folder = save(tmp_path / "out", changed, tiny_recipe)
    damage(folder / name, how)
    if (name, how) == ("laterna.json", "cut"):  # of a line break that no reader needs
        damage(folder / name, how)
    with pytest.raises(LaternaError, match=rf"out/{name}: (its (size|checksum) differs|not a re)"):
        load_checkpoint(folder)


def test_no_bit_of_a_manifest_can_be_another(
    changed: VisionLanguageModel, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    folder = save(tmp_path / "out", changed, tiny_recipe)
    path, content = folder / "laterna.json", (folder / "laterna.json").read_bytes()
    for place in range(0, len(content), 7):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(LaternaError, match=r"laterna\.json"):
            read_manifest(folder)


def test_a_manifest_without_checksums_is_an_earlier_versions_and_is_read(
    changed: VisionLanguageModel, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    folder = save(tmp_path / "out", changed, tiny_recipe)
    found = json.loads((folder / "laterna.json").read_bytes())
    for name in ("checksum", "files", "sources"):
        del found[name]
    (folder / "laterna.json").write_text(json.dumps(found))
    assert load_checkpoint(folder).changed == {"connector"}


def test_another_base_model_than_the_checkpoints_is_named(
    changed: VisionLanguageModel, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    """The checkpoint holds a connector alone, which means nothing to other models."""
    language = shutil.copytree(tiny_recipe.language.source, tmp_path / "language")
    settings = msgspec.structs.replace(tiny_recipe.language, source=str(language))
    ours = msgspec.structs.replace(tiny_recipe, language=settings)
    changed.changed = {"connector"}
    folder = save(tmp_path / "out", changed, ours)
    load_checkpoint(folder)
    weights = load_file(language / "model.safetensors")
    weights["model.norm.weight"][0] += 1e-3
    save_file(weights, language / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(LaternaError, match=r"/language: holds another language model than the one"):
        load_checkpoint(folder)
    changed.changed = {"connector", "language"}  # then the source is not read, nor missed
    load_checkpoint(save(tmp_path / "whole", changed, ours))


def test_a_connector_of_another_shape_is_refused(
    changed: VisionLanguageModel, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    folder = save(tmp_path / "out", changed, tiny_recipe)
    deeper = msgspec.structs.replace(tiny_recipe.connector, depth=3)
    manifest = msgspec.structs.replace(
        read_manifest(folder), recipe=msgspec.structs.replace(tiny_recipe, connector=deeper)
    )
    (folder / "laterna.json").write_bytes(msgspec.json.encode(manifest))
    with pytest.raises(LaternaError, match=r"does not fit .* connector: .*layers\.2"):
        load_checkpoint(folder)


@contextmanager
def files_of(most: int) -> Iterator[None]:
    """Let no file grow beyond so many bytes, as on a disk that is full; the kernel sees to it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("part", ["connector", "tokenizer", "language", "adapters"])
def test_what_cannot_be_written_is_said_and_leaves_the_one_before(
    changed: VisionLanguageModel, tiny_recipe: Recipe, tmp_path: Path, part: str
) -> None:
    """The writers of safetensors, transformers and peft have errors of their own."""
    folder = save(tmp_path / "out", changed, tiny_recipe)
    before = (folder / "connector.safetensors").read_bytes()
    tokenizer = (folder / "tokenizer" / "tokenizer.json").stat().st_size
    if part == "language":
        changed.changed = {"language"}
    if part == "adapters":
        add_lora(changed.language, LoraSettings(r=64, alpha=64))
    room = {"connector": len(before) - 1, "tokenizer": tokenizer - 1}
    assert room["connector"] < room["tokenizer"]
    with (
        files_of(room.get(part, tokenizer)),
        pytest.raises(LaternaError, match=r"out: cannot be written: .*too large.*make"),
    ):
        save(tmp_path / "out", changed, tiny_recipe)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (folder / "connector.safetensors").read_bytes() == before
    assert read_manifest(folder).parts == ("connector",)
