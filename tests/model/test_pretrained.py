from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from laterna.errors import LaternaError
from laterna.model.pretrained import load_weights


@pytest.fixture
def folder(tiny_models: Path, tmp_path: Path) -> Path:
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((tiny_models / "language" / name).read_bytes())
    return tmp_path


def load(folder: Path) -> Any:
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


def pickled(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> Path:
    torch.save(change(load_file(folder / "model.safetensors")), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


def named(prefix: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda weights: {f"{prefix}{name}": weight for name, weight in weights.items()}


READABLE: dict[str, Callable[[dict[str, Tensor]], object]] = {
    "as they are": dict,
    "state_dict": lambda weights: {"epoch": 3, "state_dict": weights},
    "DDP": named("module."),
    "torch.compile": named("_orig_mod."),
    "both": named("module._orig_mod."),
    "torch.compile of layers": lambda weights: {
        name.replace("layers.0.", "layers.0._orig_mod."): weight for name, weight in weights.items()
    },
    "peft, merged": named("base_model.model."),
    "FSDP": named("_fsdp_wrapped_module."),
    "peft in torch.compile": named("_orig_mod.base_model.model."),
    "a model in a model": lambda weights: {"step": 3, "model": {"state_dict": weights}},
    "DeepSpeed": lambda weights: {"module": weights, "optimizer": None, "global_steps": 3},
    "before zip": lambda weights: {name: weight.bfloat16() for name, weight in weights.items()},
}


@pytest.mark.parametrize("how", READABLE)
def test_pickled_weights_are_read_whatever_was_around_them(how: str, folder: Path) -> None:
    expected = load(folder).state_dict()
    found = load(pickled(folder, READABLE[how])).state_dict()
    assert found.keys() == expected.keys()
    rounded = torch.bfloat16 if how == "before zip" else torch.float32
    assert all(
        torch.equal(found[name], weight.to(rounded).float()) for name, weight in expected.items()
    )


def test_safetensors_are_unwrapped_too(folder: Path) -> None:
    expected = load(folder).state_dict()
    weights = named("module.")(load_file(folder / "model.safetensors"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    found = load(folder).state_dict()
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())


def test_sharded_pickles_are_read(folder: Path) -> None:
    expected = load(folder).state_dict()
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {name: f"pytorch_model-{len(name) % 2}.bin" for name in weights}
    for shard in set(places.values()):
        part = {name: weight for name, weight in weights.items() if places[name] == shard}
        torch.save(part, folder / shard)
    index = {"metadata": {}, "weight_map": places}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    found = load(folder).state_dict()
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())
    (folder / "pytorch_model-0.bin").unlink()
    with pytest.raises(LaternaError, match=r"pytorch_model-0\.bin is missing, though py"):
        load(folder)


def sharded(folder: Path, ending: str) -> dict[str, str]:
    """Cut the weights into two shards, and return the file of each."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    stem = {"bin": "pytorch_model", "safetensors": "model"}[ending]
    places = {
        name: f"{stem}-{at % 2 + 1:05}-of-00002.{ending}" for at, name in enumerate(sorted(weights))
    }
    for shard in set(places.values()):
        part = {name: weight for name, weight in weights.items() if places[name] == shard}
        if ending == "bin":
            torch.save(part, folder / shard)
        else:
            save_file(part, folder / shard, metadata={"format": "pt"})
    return places


@pytest.mark.parametrize("ending", ["bin", "safetensors"])
def test_shards_without_an_index_are_read_and_counted(ending: str, folder: Path) -> None:
    expected = load(folder).state_dict()
    last = max(sharded(folder, ending).values())
    found = load(folder).state_dict()
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())
    (folder / last).unlink()
    with pytest.raises(LaternaError, match=rf"{last} is missing, though the others' names count"):
        load(folder)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS, not the file"),
        ('{"weight_map": {', "index.json: not readable as JSON: "),
        ("[]", "index.json: holds no JSON object"),
        ("{}", "index.json lists no weights by the files beside it"),
        ('{"weight_map": ["a"]}', "index.json lists no weights by the files beside it"),
        ('{"weight_map": {"lm_head.weight": 7}}', "index.json lists no weights by the files"),
        ('{"weight_map": {"lm_head.weight": "../x.bin"}}', "index.json lists no weights by the f"),
    ],
)
def test_a_broken_index_is_named(content: str, said: str, folder: Path) -> None:
    sharded(folder, "bin")
    (folder / "pytorch_model.bin.index.json").write_text(content)
    with pytest.raises(LaternaError, match=re.escape(said)):
        load(folder)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("consolidated.00.pth", "there is no model.safetensors or pytorch_model.bin, whole or in sh"
         "ards; it holds consolidated.00.pth. Give"),
        ("zero_to_fp32.py", "its weights are DeepSpeed's shards: run the zero_to_fp32.py"),
        ("notes.txt", "there is no model.safetensors or pytorch_model.bin, whole or in shards. Gi"),
    ],
)  # fmt: skip
def test_a_folder_without_weights_says_what_it_has(name: str, said: str, folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(LaternaError, match=re.escape(said)):
        load(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "holds no weights: it is empty"),
        (b"<!DOCTYPE html>", "it is a web page"),
        (b"GGUF\3\0\0\0more", "not read, because it is damaged"),
    ],
)
def test_what_is_no_weights_says_what_it_is(
    name: str, content: bytes, said: str, folder: Path
) -> None:
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(content)
    if content.startswith(b"GGUF") and name == "model.safetensors":
        said = "cannot read the language model: "
    with pytest.raises(LaternaError, match=re.escape(said)):
        load(folder)


@pytest.mark.parametrize("ending", ["bin", "safetensors"])
def test_a_cut_shard_is_named(ending: str, folder: Path) -> None:
    last = max(sharded(folder, ending).values())
    (folder / last).write_bytes((folder / last).read_bytes()[:-300])
    with pytest.raises(LaternaError, match=rf"{last}: not read, because it is damaged"):
        load(folder)


@pytest.mark.parametrize(
    "change",
    [{"num_attention_heads": 3}, {"hidden_size": "32"}, {"rope_parameters": "linear"}],
)
def test_a_configuration_that_cannot_be_is_a_sentence(
    change: dict[str, object], folder: Path
) -> None:
    config = json.loads((folder / "config.json").read_text()) | change
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(LaternaError, match="cannot read the language model: "):
        load(folder)


def test_weights_of_other_names_are_told(folder: Path) -> None:
    weights = named("language_model.")(load_file(folder / "model.safetensors"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(LaternaError, match=r"it holds 21 of other names, as language_model\."):
        load(folder)


class Anything:
    """What a pickle of more than tensors holds."""


UP = "model.layers.1.mlp.up_proj.weight"
REFUSED: dict[str, tuple[Callable[[dict[str, Tensor]], object], str]] = {
    "more than tensors": (lambda w: w | {"x": Anything()}, "damaged or holds more than tensors"),
    "a number": (lambda w: w | {"x": 3}, "x is not a tensor but `int`"),
    "a list": (lambda w: [*w.values()], "holds no table of tensors"),
    "ZeRO 3": (lambda w: w | {UP: torch.empty(0)}, f"{UP} is empty, as ZeRO's stage 3 leaves"),
    "another shape": (
        lambda w: w | {UP: torch.zeros(3, 5)},
        f"1 weights of the language model are missing or of another shape, the first is {UP} of",
    ),
    "adapters": (
        lambda w: w | {f"{UP.removesuffix('weight')}lora_A.weight": torch.zeros(2, 2)},
        "adapters stand beside the weights; merge them first",
    ),
}


@pytest.mark.parametrize("how", REFUSED)
def test_what_cannot_be_read_says_what_it_is(how: str, folder: Path) -> None:
    change, message = REFUSED[how]
    with pytest.raises(LaternaError, match=re.escape(message)):
        load(pickled(folder, change))


@pytest.mark.parametrize("shape", [(3, 5), (0,)])
def test_safetensors_of_another_shape_are_named(shape: tuple[int, ...], folder: Path) -> None:
    weights = load_file(folder / "model.safetensors") | {UP: torch.zeros(shape)}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(LaternaError) as error:
        load(folder)
    said = "run the zero_to_fp32.py" if 0 in shape else f"the first is {UP} of (3, 5) for ("
    assert said in str(error.value)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "pytorch_model.bin"])
def test_a_pointer_of_git_lfs_is_named(name: str, folder: Path) -> None:
    if name == "pytorch_model.bin":
        pickled(folder, dict)
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(LaternaError) as error:
        load(folder)
    assert str(error.value) == (
        f"{folder / name}: a pointer of Git LFS, not the file: fetch it with `git lfs pull`"
    )
