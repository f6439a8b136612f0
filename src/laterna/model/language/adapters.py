"""Adapters: small trainable matrices beside a part's frozen linear layers (LoRA, by peft).

They are put into the part in place: its class, its forward and the names of its other modules
stay as they are. In files they are peft's own (`adapter_config.json`, `adapter_model.safetensors`),
so `PeftModel.from_pretrained` reads them over the same base.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from laterna.errors import LaternaError, one_line, package
from laterna.model.language.quantize import is_quantized
from laterna.recipe import LoraSettings

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
_PREFIX = "base_model.model."
"""What peft puts before the names of the base model's modules in files."""
_BASE = ".base_layer."
_NAME = "default"
LORA_MARK = ".lora_"
"""Stands in the name of every adapter's weight, and in no other name."""


def add_lora(module: nn.Module, settings: LoraSettings, layers: Sequence[nn.Module] = ()) -> None:
    """Put fresh adapters into a module in place; they are all that is left to train in it.

    `layers`: consecutive layers to adapt; empty adapts the whole module. Fresh adapters change
    nothing: the second of each pair of matrices is zero. The first is drawn from torch's generator,
    which the caller seeds. Quantized layers of bitsandbytes are adapted as they are (QLoRA).
    Raises LaternaError when peft is not installed, when the module has adapters already, or when
    no layer has a name in `settings.targets`.
    """
    if has_lora(module):
        raise LaternaError("this part has adapters already; merge them before adding others")
    peft = package("peft", "adapters", "an adapter")
    targets = list(settings.targets) or (_linear_in(layers) if layers else "all-linear")
    config = peft.LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=targets,
        layers_to_transform=layer_numbers(module, layers) or None,
        layers_pattern=_names_of(module, layers)[0].rpartition(".")[0] if layers else None,
    )
    try:
        peft.inject_adapter_in_model(config, module, _NAME)
    except ValueError as error:
        reason = one_line(error)
        raise LaternaError(f"lora.targets = {list(settings.targets)}: {reason}") from error


def has_lora(module: nn.Module) -> bool:
    """Say whether a module has adapters."""
    return any(_BASE in f".{name}" for name, _ in module.named_parameters())


def lora_layers(module: nn.Module) -> list[int]:
    """Return the numbers, from 0, of the layers that have adapters; an empty list if adapters are
    everywhere.
    """
    found = module.peft_config[_NAME].layers_to_transform  # type: ignore[index,union-attr]
    return [found] if isinstance(found, int) else list(found or ())


def layer_numbers(module: nn.Module, layers: Sequence[nn.Module]) -> list[int]:
    """Return the numbers, from 0, of `layers` in a module's list of layers.

    Raises LaternaError when they are not in one list: peft knows layers by their numbers.
    """
    names = [name.rpartition(".") for name in _names_of(module, layers)]
    if len({place for place, _, _ in names}) > 1 or not all(last.isdigit() for _, _, last in names):
        raise LaternaError(
            f"adapters in the last layers alone: {type(module).__name__} does not keep its layers "
            "in one list; use `lora`, which adapts all of it, or `last-N`"
        )
    return [int(last) for _, _, last in names]


def train_lora(module: nn.Module, trains: bool) -> None:
    """Let a module's adapters train, or freeze them too; all its other weights are frozen."""
    module.requires_grad_(False)
    for name, weight in module.named_parameters():
        if LORA_MARK in name:
            weight.requires_grad_(trains)


def own_weights(module: nn.Module) -> dict[str, Tensor]:
    """Return a module's weights by the names they have without adapters, adapters left out."""
    return {
        name.replace(_BASE, "."): weight
        for name, weight in module.state_dict().items()
        if LORA_MARK not in name
    }


def merged_weights(module: nn.Module) -> dict[str, Tensor]:
    """Return a module's weights with its adapters added in; the module itself is not changed.

    Raises LaternaError as `merge_lora` does.
    """
    _require_unquantized(module)
    weights = own_weights(module)
    for name, layer in _adapted(module):
        merged = _merged(name, copy.deepcopy(layer)).state_dict()
        weights |= {f"{name}.{key}": weight for key, weight in merged.items()}
    return weights


def merge_lora(module: nn.Module) -> None:
    """Add a module's adapters into its weights, in place, and remove them. It stays frozen.

    Raises LaternaError for quantized weights, and when the result would not be finite.
    """
    _require_unquantized(module)
    for name, layer in list(_adapted(module)):
        parent, _, attribute = name.rpartition(".")
        setattr(module.get_submodule(parent), attribute, _merged(name, layer))
    if hasattr(module, "peft_config"):
        del module.peft_config


def _merged(name: str, layer: Any) -> nn.Module:
    """Add a layer's adapter into its base layer, and return that."""
    try:
        layer.merge(safe_merge=True, adapter_names=[_NAME])
    except ValueError as error:
        raise LaternaError(f"{name}: the adapter is damaged: {error}") from error
    base: nn.Module = layer.get_base_layer()
    return base


def _require_unquantized(module: nn.Module) -> None:
    if is_quantized(module):
        raise LaternaError(
            "the language model is held in 4 bits, so its adapters cannot be merged or exported; "
            'set "quantize" to "" in the checkpoint\'s laterna.json, and they go onto the whole '
            "weights"
        )


def save_lora(module: nn.Module, folder: Path) -> None:
    """Write a module's adapters to a new folder, in peft's form and without the base weights."""
    peft = package("peft", "adapters", "an adapter")
    folder.mkdir(parents=True)
    state = peft.get_peft_model_state_dict(module, adapter_name=_NAME, save_embedding_layers=False)
    weights = {f"{_PREFIX}{name}": weight.contiguous() for name, weight in state.items()}
    save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    module.peft_config[_NAME].save_pretrained(str(folder))  # type: ignore[index,union-attr]


def load_lora(module: nn.Module, folder: Path) -> None:
    """Put the adapters of a folder that `save_lora` or peft wrote into a module, in place.

    The adapters are frozen. Raises LaternaError when peft or a file is missing, or when the
    adapters are not of this module.
    """
    try:
        weights = load_file(folder / WEIGHTS_FILE)
    except (OSError, SafetensorError) as error:
        raise LaternaError(f"{folder / WEIGHTS_FILE}: cannot read the adapters: {error}") from error
    put_lora(module, folder, weights)


def put_lora(module: nn.Module, folder: Path | str, weights: dict[str, Tensor]) -> None:
    """Do as `load_lora`, for a folder or hub id whose weights were read elsewhere."""
    peft = package("peft", "adapters", "an adapter")
    try:
        config = peft.LoraConfig.from_pretrained(str(folder))
        peft.inject_adapter_in_model(config, module, _NAME)
        result = peft.set_peft_model_state_dict(module, weights, adapter_name=_NAME)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        reason = one_line(error)
        raise LaternaError(f"{folder}: the adapters do not fit this part: {reason}") from error
    lacking = [name for name in result.missing_keys if LORA_MARK in name]
    stray = lacking + list(result.unexpected_keys)
    if stray:
        raise LaternaError(
            f"{folder}: the adapters do not fit this part: {len(lacking)} are missing and "
            f"{len(result.unexpected_keys)} have no place, the first is {stray[0]}"
        )
    train_lora(module, trains=False)
    module.eval()


def _linear_in(layers: Sequence[nn.Module]) -> list[str]:
    """Return the last names of what peft's `all-linear` stands for in some layers."""
    from transformers.pytorch_utils import Conv1D

    linear = {
        name.rpartition(".")[2]
        for layer in layers
        for name, part in layer.named_modules()
        if isinstance(part, nn.Linear | Conv1D)
    }
    if not linear:
        raise LaternaError(
            "no layer is linear where adapters are asked for; name others in lora.targets"
        )
    return sorted(linear)


def _names_of(module: nn.Module, layers: Sequence[nn.Module]) -> list[str]:
    return [name for name, part in module.named_modules() if any(part is one for one in layers)]


def _adapted(module: nn.Module) -> Iterator[tuple[str, Any]]:
    if not has_lora(module):
        return
    from peft.tuners.lora import LoraLayer

    for name, layer in module.named_modules():
        if isinstance(layer, LoraLayer):
            yield name, layer
