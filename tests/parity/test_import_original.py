"""Original LLaVA's checkpoints, made here as its scripts make them, say what they were made of."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import laterna
from laterna.errors import LaternaError
from laterna.inference.assistant import Assistant, load
from laterna.model.importers import merge_adapters
from laterna.model.language.adapters import add_lora, has_lora, save_lora
from laterna.model.vlm import VisionLanguageModel
from laterna.recipe import LoraSettings

Insist = Callable[..., None]


class Maker:
    """Writes a tiny assistant as LLaVA's own scripts write theirs."""

    def __init__(self, assistant: VisionLanguageModel, folder: Path, models: Path) -> None:
        self.assistant = assistant
        self.folder = folder
        self.models = models
        folder.mkdir()

    def config(self, **changes: Any) -> None:
        kind = self.assistant.recipe.connector.kind  # type: ignore[union-attr]
        text = self.assistant.language.config.to_dict()
        rope = text.pop("rope_parameters")
        config = {
            **text,
            "architectures": ["LlavaLlamaForCausalLM"],
            "model_type": "llava",
            "rope_theta": rope["rope_theta"],
            "rope_scaling": None,
            "image_aspect_ratio": "pad",
            "mm_hidden_size": 24,
            "mm_projector_type": "linear" if kind == "linear" else "mlp2x_gelu",
            "mm_use_im_patch_token": False,
            "mm_use_im_start_end": False,
            "mm_vision_select_feature": "patch",
            "mm_vision_select_layer": -2,
            "mm_vision_tower": str(self.models / "vision"),
            "tune_mm_mlp_adapter": False,
            "use_mm_proj": True,
        } | changes
        (self.folder / "config.json").write_text(json.dumps(config))

    def projector(self, prefix: str = "model.mm_projector.") -> dict[str, torch.Tensor]:
        state = self.assistant.connector.state_dict()
        if "project.weight" in state:
            names = {"project.": prefix}
        else:
            names = {"layers.0.": f"{prefix}0.", "layers.1.": f"{prefix}2."}
        return {
            names[key] + name.removeprefix(key): weight
            for name, weight in state.items()
            for key in names
            if name.startswith(key)
        }

    def shards(self, extra: dict[str, torch.Tensor] | None = None) -> None:
        weights = {**self.assistant.language.state_dict(), **self.projector(), **(extra or {})}
        names = sorted(weights)
        half = len(names) // 2
        places = {}
        for number, part in enumerate((names[:half], names[half:]), start=1):
            file = f"pytorch_model-0000{number}-of-00002.bin"
            torch.save({name: weights[name].clone() for name in part}, self.folder / file)
            places |= dict.fromkeys(part, file)
        index = {"metadata": {}, "weight_map": places}
        (self.folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))

    def tokenizer(self) -> None:
        self.assistant.tokenizer.save_pretrained(self.folder)


@pytest.fixture
def make(tmp_path: Path, tiny_models: Path) -> Callable[[VisionLanguageModel], Maker]:
    return lambda assistant: Maker(assistant, tmp_path / "original", tiny_models)


def test_a_whole_original_model(
    either: VisionLanguageModel,
    make: Callable[[VisionLanguageModel], Maker],
    tmp_path: Path,
    require_equality: Insist,
) -> None:
    maker = make(either)
    maker.config()
    maker.shards()
    maker.tokenizer()
    again = laterna.load(maker.folder)
    require_equality(either, again)
    assert again.model.template == either.template  # the tokenizer's own
    assert again.model.changed == {"connector", "language"}
    hf = laterna.load(Assistant(either).export(tmp_path / "hf", to="hf"))
    require_equality(hf, again)
    require_equality(either, laterna.load(again.save(tmp_path / "ours")))


def test_safetensors_are_read_too(
    tiny_assistant: VisionLanguageModel,
    make: Callable[[VisionLanguageModel], Maker],
    require_equality: Insist,
) -> None:
    maker = make(tiny_assistant)
    maker.config(model_type="llava_llama")
    maker.tokenizer()
    weights = {**tiny_assistant.language.state_dict(), **maker.projector()}
    save_file({name: weight.clone() for name, weight in weights.items()},
              maker.folder / "model.safetensors")  # fmt: skip
    require_equality(tiny_assistant, laterna.load(maker.folder))


def test_an_encoder_inside_takes_the_place_of_the_named_one(
    tiny_assistant: VisionLanguageModel,
    make: Callable[[VisionLanguageModel], Maker],
    require_equality: Insist,
) -> None:
    with torch.no_grad():
        for weight in tiny_assistant.vision.parameters():
            weight.mul_(1.1)
    inside = {
        f"model.vision_tower.vision_tower.vision_model.{name}": weight
        for name, weight in tiny_assistant.vision.weights().items()
    }
    maker = make(tiny_assistant)
    maker.config()
    maker.shards(inside)
    maker.tokenizer()
    again = laterna.load(maker.folder)
    require_equality(tiny_assistant, again)
    assert again.model.changed == {"connector", "language", "vision"}


def test_a_projector_alone_goes_on_its_base(
    either: VisionLanguageModel,
    make: Callable[[VisionLanguageModel], Maker],
    tiny_models: Path,
    tmp_path: Path,
    require_equality: Insist,
) -> None:
    maker = make(either)
    maker.config(_name_or_path="./checkpoints/vicuna-on-another-machine")
    torch.save(maker.projector(), maker.folder / "mm_projector.bin")
    with pytest.raises(LaternaError, match="vicuna-on-another-machine: no such file or folder"):
        load(maker.folder)
    again = load(maker.folder, language=str(tiny_models / "language"))
    require_equality(either, again)
    assert again.model.changed == {"connector"}
    saved = again.save(tmp_path / "ours")
    assert not (saved / "language").exists()
    require_equality(either, laterna.load(saved))


def test_adapters_and_what_trained_beside_them(
    tiny_assistant: VisionLanguageModel,
    make: Callable[[VisionLanguageModel], Maker],
    tiny_models: Path,
    tmp_path: Path,
    require_equality: Insist,
) -> None:
    torch.manual_seed(3)
    add_lora(tiny_assistant.language, LoraSettings(r=4, alpha=8))
    for name, weight in tiny_assistant.language.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(weight, std=0.2)
    tiny_assistant.eval()
    maker = make(tiny_assistant)
    maker.config()
    save_lora(tiny_assistant.language, tmp_path / "adapters")
    weights = load_file(tmp_path / "adapters" / "adapter_model.safetensors")
    torch.save(weights, maker.folder / "adapter_model.bin")
    config = json.loads((tmp_path / "adapters" / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(tiny_models / "language")
    (maker.folder / "adapter_config.json").write_text(json.dumps(config))
    beside = maker.projector("base_model.model.model.mm_projector.")
    torch.save(beside, maker.folder / "non_lora_trainables.bin")
    again = laterna.load(maker.folder)
    require_equality(tiny_assistant, again)
    for around in ("module.", "_orig_mod."):
        torch.save(
            {f"{around}{name}": weight for name, weight in weights.items()},
            maker.folder / "adapter_model.bin",
        )
        beside = maker.projector(f"{around}base_model.model.model.mm_projector.")
        torch.save(beside, maker.folder / "non_lora_trainables.bin")
        require_equality(tiny_assistant, laterna.load(maker.folder))
    (maker.folder / "adapter_model.bin").unlink()
    with pytest.raises(LaternaError, match="json, and no adapter_model"):
        laterna.load(maker.folder)
    assert has_lora(again.model.language)
    require_equality(tiny_assistant, laterna.load(again.save(tmp_path / "ours")))
    merge_adapters(again.model)
    assert not has_lora(again.model.language)
    require_equality(tiny_assistant, again, tolerance=1e-5)
    require_equality(again, laterna.load(again.save(tmp_path / "merged")))


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("run on loading",))


def test_a_pickle_of_more_than_tensors_is_not_run(
    tiny_assistant: VisionLanguageModel,
    make: Callable[[VisionLanguageModel], Maker],
    capsys: pytest.CaptureFixture[str],
) -> None:
    maker = make(tiny_assistant)
    maker.config()
    torch.save({"model.mm_projector.0.weight": Hostile()}, maker.folder / "mm_projector.bin")
    with pytest.raises(LaternaError, match=r"mm_projector\.bin: not read, .* more than tensors"):
        load(maker.folder)
    (maker.folder / "mm_projector.bin").write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(LaternaError, match=r"mm_projector\.bin: not read"):
        load(maker.folder)
    assert "run on loading" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"mm_use_im_start_end": True}, "puts <im_start> and <im_end>"),
        ({"mm_projector_type": "ldpnet"}, "a projector of type 'ldpnet'"),
        ({"mm_projector_type": "mlp3x_gelu"}, "a mlp3x_gelu projector has the weights 0.weight"),
        ({"image_aspect_ratio": "anyres"}, "reads images in tiles"),
        ({"mm_vision_tower": None}, "names no vision encoder .mm_vision_tower is null"),
        ({"mm_vision_select_feature": "all"}, "mm_vision_select_feature = 'all'"),
        ({"model_type": "llava_mpt"}, "of type 'llava_mpt'; known are llava, llava_llama"),
        ({"model_type": ["llava"]}, "of type \"\\['llava'\\]\"; known are llava, llava_llama"),
        ({"mm_projector_type": "mlp99999999x_gelu"}, "a mlp99999999x_gelu projector has the weig"),
        ({"mm_vision_tower": 3}, "mm_vision_tower = 3 in its config.json is no name of a vision"),
        ({"mm_vision_select_layer": None}, "mm_vision_select_layer = None .* is no single layer"),
        ({"mm_vision_select_layer": [-2, -5]}, "mm_vision_select_layer = .* is no single layer"),
        ({"hidden_size": "32"}, "cannot read the configuration: .*'hidden_size' expected int"),
        ({"rope_scaling": "linear"}, "cannot read the configuration: "),
    ],
)
def test_original_models_that_laterna_lacks_are_refused(
    tiny_assistant: VisionLanguageModel,
    make: Callable[[VisionLanguageModel], Maker],
    changes: dict[str, Any],
    reason: str,
) -> None:
    maker = make(tiny_assistant)
    maker.config(**changes)
    maker.shards()
    maker.tokenizer()
    with pytest.raises(LaternaError, match=reason):
        load(maker.folder)


def test_a_missing_shard_is_named(
    tiny_assistant: VisionLanguageModel, make: Callable[[VisionLanguageModel], Maker]
) -> None:
    maker = make(tiny_assistant)
    maker.config()
    maker.shards()
    (maker.folder / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(LaternaError, match=r"pytorch_model-00002-of-00002\.bin is missing"):
        load(maker.folder)


def test_the_checkpoint_of_a_lora_run_on_its_way_is_named(tmp_path: Path) -> None:
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(LaternaError, match="adapters alone, as a LoRA run leaves them in checkpo"):
        load(tmp_path)


@pytest.mark.parametrize(
    "prefix", ["module.", "base_model.model.", "_orig_mod.", "module._orig_mod."]
)
def test_names_that_training_wrapped_are_read(
    prefix: str,
    tiny_assistant: Assistant,
    make: Callable[[Assistant], Maker],
) -> None:
    maker = make(tiny_assistant)
    maker.config()
    weights = {**tiny_assistant.language.state_dict(), **maker.projector()}
    wrapped = {f"{prefix}{name}": weight for name, weight in weights.items()}
    torch.save({"state_dict": wrapped}, maker.folder / "pytorch_model.bin")
    maker.tokenizer()
    found = load(maker.folder).model.language.state_dict()
    for name, weight in tiny_assistant.language.state_dict().items():
        assert torch.equal(found[name], weight)


def test_a_whole_model_counts_before_a_projector_beside_it(
    tiny_assistant: VisionLanguageModel,
    make: Callable[[VisionLanguageModel], Maker],
    require_equality: Insist,
) -> None:
    maker = make(tiny_assistant)
    maker.config(image_aspect_ratio=["pad"], mm_vision_select_layer="-2")
    maker.shards()
    (maker.folder / "pytorch_model.bin.index.json").unlink()
    maker.tokenizer()
    other = {name: weight + 1 for name, weight in maker.projector().items()}
    torch.save(other, maker.folder / "mm_projector.bin")
    require_equality(tiny_assistant, load(maker.folder, fit="pad"))


@pytest.mark.parametrize("file", ["mm_projector.bin", "mm_projector.safetensors"])
@pytest.mark.parametrize(
    "prefix", ["", "mm_projector.", "module.model.mm_projector.", "_orig_mod.model.mm_projector."]
)
def test_a_projectors_names_are_read_however_short(
    either: VisionLanguageModel,
    make: Callable[[VisionLanguageModel], Maker],
    tiny_models: Path,
    require_equality: Insist,
    prefix: str,
    file: str,
) -> None:
    maker = make(either)
    maker.config()
    weights = {name: weight.clone() for name, weight in maker.projector(prefix).items()}
    write = torch.save if file.endswith("bin") else save_file
    write(weights, maker.folder / file)
    require_equality(either, load(maker.folder, language=str(tiny_models / "language")))


@pytest.mark.parametrize("adapters", [False, True])
def test_a_missing_projector_says_where_it_is(
    tiny_assistant: VisionLanguageModel,
    make: Callable[[VisionLanguageModel], Maker],
    tiny_models: Path,
    adapters: bool,
) -> None:
    maker = make(tiny_assistant)
    maker.config()
    said = "holds no projector: no mm_projector.bin, and no whole model .* give the folder that LLa"
    if adapters:
        (maker.folder / "adapter_config.json").write_text("{}")
        said = "holds adapters and no non_lora_trainables.bin.*checkpoint-N"
    with pytest.raises(LaternaError, match=said):
        load(maker.folder, language=str(tiny_models / "language"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\0\1garbage", "tokenizer.model: damaged, or no model of SentencePiece's"),
        (b"version https://git-lfs.github.com/spec/v1\n", "tokenizer.model: a pointer of Git LFS"),
    ],
)
def test_a_damaged_tokenizer_is_named(
    tiny_assistant: VisionLanguageModel,
    make: Callable[[VisionLanguageModel], Maker],
    content: bytes,
    said: str,
) -> None:
    pytest.importorskip("sentencepiece")
    maker = make(tiny_assistant)
    maker.config()
    maker.shards()
    (maker.folder / "tokenizer.model").write_bytes(content)
    with pytest.raises(LaternaError, match=said):
        load(maker.folder)


def test_what_zero_left_empty_is_named(
    tiny_assistant: Assistant, make: Callable[[Assistant], Maker]
) -> None:
    maker = make(tiny_assistant)
    maker.config()
    empty = {name: torch.empty(0) for name in maker.projector()}
    torch.save(empty, maker.folder / "mm_projector.bin")
    with pytest.raises(LaternaError, match=r"mm_projector\.bin: .* is empty, as ZeRO's stage 3"):
        load(maker.folder, language="x")
