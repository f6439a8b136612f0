"""A network for answering on a CPU: the same weights, multiplied by oneDNN, and attention that
copies no keys.

torch multiplies float32 matrices on a CPU by MKL. For a few rows, as a decoding step has, MKL
spends much of its time on laying a weight out anew, and on other makers' processors it leaves the
widest instructions unused. oneDNN takes a weight in its own layout, made once.

Shapes: n rows · i inputs · o outputs · r requests · h heads · t tokens · d width of a head.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from laterna.model.attention.varlen import BEYOND, SEGMENTS

GROUPED = "laterna_grouped"
"""The attention's name among transformers' implementations."""
WORTH_IT = 2_000_000
"""Multiplications (n · i · o) from which on oneDNN is faster, the way there and back included.
Measured with weights of 64x64 to 576x49152 and 1 to 256 rows: benchmarks/results, serving."""


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


def packed(network: Any, limit: int) -> Any:
    """Return a network that shares another's weights and answers faster on a CPU; or itself.

    Its linear layers are `PackedLinear`s, as many as `limit` bytes of copies allow. A network that
    is not on a CPU, not in float32, quantized or spread over processes stays as it is.
    """
    tensors = [*network.parameters(), *network.buffers()]
    plain = all(type(one) in (Tensor, nn.Parameter) and one.device.type == "cpu" for one in tensors)
    there = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not (plain and there):
        return network
    chosen, left = {}, limit
    for name, module in network.named_modules():
        if type(module) is nn.Linear and module.weight.dtype == torch.float32:
            left -= module.weight.nbytes
            if left < 0:
                break
            chosen[name] = PackedLinear(module)
    if not chosen:
        return network
    shared: dict[int, Any] = {id(one): one for one in tensors}
    twin = copy.deepcopy(network, shared).eval()
    for name, module in chosen.items():
        twin.set_submodule(name, module)
    config = getattr(twin, "config", None)
    if config is not None and config._attn_implementation in ("sdpa", SEGMENTS):
        AttentionInterface.register(GROUPED, _attend)
        AttentionMaskInterface.register(GROUPED, sdpa_mask)
        twin.set_attn_implementation(GROUPED)
    return twin


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attend as transformers' `sdpa` does: (r, h, t, d) to (r, t, h, d).

    Where several heads share keys, that one copies them for each head, which costs more than all
    else when a piece of a long prompt is taken.
    """
    shared = query.shape[1] > key.shape[1] and query.shape[2] > 1 and attention_mask is not None
    if not shared or any(others.get(name) is not None for name in BEYOND):
        given: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **others
        )
        return given
    attended = scaled_dot_product_attention(
        query, key, value, attention_mask, scale=scaling, enable_gqa=True
    )
    return attended.transpose(1, 2).contiguous(), None
