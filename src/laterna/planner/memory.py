"""The bytes alive at every moment of a dry run, and attention that keeps what fused kernels keep.

torch has fused attention for real devices only; on meta it falls apart into matrices of scores,
which no planned device holds in memory. The operator here keeps what the fused kernels keep:
queries, keys, values, output, a sum a query, and the mask as numbers.

Shapes: r rows · h heads · t, u tokens of queries and of keys · d width of a head.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AttentionInterface

from laterna.model.attention.varlen import LIST


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]  # untyped base
    """Counts the storages of tensors, from when an operator makes them until nothing holds them.

    A storage that several tensors share counts once. `now` are the bytes alive, `peak` the
    most that ever were.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        self.peak = 0
        self._alive: weakref.WeakSet[Any] = weakref.WeakSet()

    def add(self, made: Iterable[Any]) -> None:
        """Count the tensors among what an operator returned, or what was there before."""
        for one in made:
            if isinstance(one, Tensor):
                self._count(one)
            elif isinstance(one, tuple | list):
                self.add(one)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        del types
        made = func(*args, **(kwargs or {}))
        self.add(made if isinstance(made, tuple | list) else (made,))
        return made

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self._alive:
            return
        self._alive.add(storage)
        size = storage.nbytes()
        weakref.finalize(storage, self._free, size).atexit = False
        self.now += size
        self.peak = max(self.peak, self.now)

    def _free(self, size: int) -> None:
        self.now -= size


IMPLEMENTATION = "laterna_dry_run"
"""Its name among transformers' attention implementations."""


def meta_attention(model: Any) -> None:
    """Let a Hugging Face model on the meta device attend by the operator below."""
    AttentionInterface.register(IMPLEMENTATION, _attend)
    model.set_attn_implementation(IMPLEMENTATION)


def _attend(
    _module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    position_bias: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend as transformers' `sdpa` does, some models naming the mask: (r, h, t, d) to (r, t, h,
    d). A T5's bias of positions is joined with the mask, in each layer anew.
    """
    mask = attention_mask
    shared = query.shape[1] // key.shape[1]
    if mask is not None and mask.dtype == LIST:  # as long here as the keys of all segments
        chosen = torch.empty(mask.shape[2], dtype=torch.long, device=key.device)
        key, value = (states.index_select(2, chosen) for states in (key, value))
        mask = None
    if mask is not None and shared > 1:  # no fused kernel takes both shared keys and a mask
        key, value = (states.repeat_interleave(shared, dim=1) for states in (key, value))
    numbers = None if mask is None else mask.to(query.dtype)  # the same where it is of numbers
    if position_bias is not None:
        numbers = position_bias if mask is None else torch.where(mask, position_bias, 0.0)
    output_rhtd, _sums = attention(query, key, value, numbers)
    return output_rhtd.transpose(1, 2).contiguous(), None


@torch.library.custom_op("laterna::attention", mutates_args=())
def attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return what fused attention returns: its output (r, h, t, d) and a sum a query (r, h, t)."""
    raise NotImplementedError("this attention is for the meta device only")


@attention.register_fake
def _shapes(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    del key, mask
    sums = query.new_empty(query.shape[:-1], dtype=torch.float32)
    # Laid out as (r, t, h, d), like the fused kernels' outputs: transposing it copies nothing.
    rows, heads, tokens, _ = query.shape
    output = query.new_empty(rows, tokens, heads, value.shape[-1]).transpose(1, 2)
    return output, sums


@torch.library.custom_op("laterna::attention_backward", mutates_args=())
def attention_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of query, key and value."""
    raise NotImplementedError("this attention is for the meta device only")


@attention_backward.register_fake
def _gradient_shapes(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    del grad
    return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    ctx.save_for_backward(*inputs, *output)


def _backward(ctx: Any, grad: Tensor, _grad_of_sums: Tensor) -> tuple[Tensor | None, ...]:
    query, key, value, *_kept = ctx.saved_tensors
    return (*attention_backward(grad, query, key, value), None)


attention.register_autograd(_backward, setup_context=_keep)
