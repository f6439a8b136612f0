"""A network for answering on a CPU: the same weights, multiplied by oneDNN.

torch multiplies float32 matrices on a CPU by MKL. For a few rows, as a decoding step has, MKL
spends much of its time on laying a weight out anew, and on other makers' processors it leaves the
widest instructions unused. oneDNN takes a weight in its own layout, made once.

Shapes: n rows · i inputs · o outputs.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from laterna.inference.batching.flat import attend_flat, can_attend_flat

WORTH_IT = 2_000_000
"""Multiplications (n · i · o) from which on oneDNN is faster, the way there and back included.
Measured with weights of 64x64 to 576x49152 and 1 to 256 rows: benchmarks/results, serving."""
SMALL = 200_000
"""Weights (i · o) below which it is not: of a nano model's piece of 96 tokens the way there and
back takes a sixth."""


class PackedLinear(nn.Linear):
    """A linear layer that also holds its weight in oneDNN's layout.

    The copy is made when it would be used a second time: a single short answer never pays for it.
    """

    def __init__(self, plain: nn.Linear) -> None:
        """Share a layer's weights."""
        super().__init__(plain.in_features, plain.out_features, bias=False, device="meta")
        self.weight, self.bias = plain.weight, plain.bias
        self._wanted = False
        self._packed: tuple[Tensor, Tensor | None] | None = None

    def forward(self, input: Tensor) -> Tensor:
        """Map (..., i) to (..., o). Gradients do not pass."""
        if input.numel() * self.out_features < WORTH_IT:
            return linear(input, self.weight, self.bias)
        if not self._wanted:
            self._wanted = True
            return linear(input, self.weight, self.bias)
        if self._packed is None:
            bias = None if self.bias is None else self.bias.detach().to_mkldnn()
            self._packed = self.weight.detach().to_mkldnn(), bias
        flat_ni = input.reshape(-1, self.in_features).contiguous()
        flat_no = linear(flat_ni.to_mkldnn(), *self._packed)
        return flat_no.to_dense().reshape(*input.shape[:-1], self.out_features)


def packed(network: Any, limit: int, *, flat: bool = True) -> Any:
    """Return a network that shares another's weights and answers faster on a CPU; or itself.

    Its linear layers are `PackedLinear`s, as many as `limit` bytes of copies allow, and with `flat`
    it attends to rows that stand end to end. A network that is not on a CPU, not in float32,
    quantized or spread over processes stays as it is.
    """
    tensors = [*network.parameters(), *network.buffers()]
    plain = all(type(one) in (Tensor, nn.Parameter) and one.device.type == "cpu" for one in tensors)
    there = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not (plain and there):
        return network
    chosen, left = {}, limit
    for name, module in network.named_modules():
        if _suits(module):
            left -= module.weight.nbytes
            if left < 0:
                break
            chosen[name] = PackedLinear(module)
    flat = flat and can_attend_flat(network)
    if not (chosen or flat):
        return network
    shared: dict[int, Any] = {id(one): one for one in tensors}
    twin = copy.deepcopy(network, shared).eval()
    for name, module in chosen.items():
        twin.set_submodule(name, module)
    if flat:
        attend_flat(twin)
    return twin


def _suits(module: nn.Module) -> bool:
    return (
        type(module) is nn.Linear
        and module.weight.dtype == torch.float32
        and module.weight.numel() >= SMALL
    )
