"""A language model's frozen matrices in 4 bits, by bitsandbytes: QLoRA trains adapters over them.

Each matrix of a layer is stored as NormalFloat4 codes with a scale for every 64 weights, about 4.5
bits a weight (Dettmers et al. 2023), and unpacked when it is used. Embeddings, norms and the head
stay as they are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from laterna.errors import package


def quantize(model: nn.Module) -> None:
    """Convert the linear layers of a language model but its head to 4 bits, in place and frozen.

    Raises LaternaError where bitsandbytes is not installed.
    """
    bnb = package("bitsandbytes", "bitsandbytes", 'language.quantize = "4bit"').nn
    head = model.get_output_embeddings()  # type: ignore[operator]
    for name, layer in list(model.named_modules()):
        if type(layer) is not nn.Linear or layer is head:
            continue
        device, bias = layer.weight.device, layer.bias is not None
        with torch.device("meta"):
            packed = bnb.Linear4bit(layer.in_features, layer.out_features, bias, quant_type="nf4")
        # Its CPU format for inference rounds the scales in place: validation would change training.
        packed.support_avx512bf16_for_cpu = False
        weight = layer.weight.data.to("cpu")
        packed.weight = bnb.Params4bit(weight, requires_grad=False, quant_type="nf4", module=packed)
        packed.bias = layer.bias
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, packed.to(device))


def is_quantized(module: nn.Module) -> bool:
    """Say whether any of a module's weights are in 4 bits."""
    return any(_packing(weight) is not None for weight in module.parameters())


def count_weights(weight: nn.Parameter) -> int:
    """Return the number of weights in a tensor, packed or not."""
    packing = _packing(weight)
    return int(weight.numel() if packing is None else packing.shape.numel())


def _packing(weight: nn.Parameter) -> Any:
    """Return bitsandbytes' state of a packed weight; None for an ordinary one."""
    return getattr(weight, "quant_state", None)
