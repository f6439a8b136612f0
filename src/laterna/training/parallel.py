"""The ranks of a run, and torch's two engines: how ranks agree, share weights and add up gradients.

`torchrun` starts them. A run without it is one rank, for which nothing here costs anything.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from laterna.errors import LaternaError
from laterna.model.language.causal import layers_of
from laterna.model.language.quantize import is_quantized
from laterna.recipe import Engine
from laterna.training.objective import Objective

Made = TypeVar("Made")


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together."""

    rank: int
    """Counted from 0; rank 0 prints and writes files."""
    count: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process prints and writes files for all."""
        return self.rank == 0

    def total(self, values: Sequence[float]) -> list[float]:
        """Return the sums of the values over all ranks; every rank must call it."""
        if self.count == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.all_reduce(sums)
        return [float(value) for value in sums.tolist()]

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set on any rank; every rank must call it."""
        return self.total([float(flag)])[0] > 0

    def wait(self) -> None:
        """Return when every rank has called it."""
        if self.count > 1:
            distributed.barrier()

    def from_first(self, make: Callable[[], Made], sent: Callable[[Made], Made]) -> Made:
        """Return what rank 0 makes; on the others, what `sent` makes of it.

        A LaternaError of `make` is raised on every rank.
        """
        made: Made | None = None
        parcel: list[Any] = [None]
        if self.first:
            try:
                made = make()
                parcel = [sent(made)] if self.count > 1 else parcel
            except LaternaError as error:
                parcel = [error]
        if self.count > 1:
            distributed.broadcast_object_list(parcel, src=0, device=self.device)
        if isinstance(parcel[0], LaternaError):
            raise parcel[0]
        return parcel[0] if made is None else made

    @contextmanager
    def first_alone(self) -> Iterator[None]:
        """Let rank 0 run the block before the others: it makes files that they then read."""
        if not self.first:
            self.wait()
        yield
        if self.first:
            self.wait()


ALONE = Ranks(rank=0, count=1, device=torch.device("cpu"))
"""One process on the CPU."""


@contextmanager
def joined_ranks() -> Iterator[Ranks]:
    """Join the ranks that `torchrun` started, or be the only one.

    On GPUs each process takes the one of its local rank, with nccl; on CPUs gloo is used. A process
    that had joined before stays so.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Ranks(rank=0, count=1, device=_device(0))
        return
    device = _device(int(os.environ.get("LOCAL_RANK", "0")))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    joins = not distributed.is_initialized()
    if joins:
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Ranks(rank=distributed.get_rank(), count=distributed.get_world_size(), device=device)
    finally:
        if joins:
            distributed.destroy_process_group()


def _device(local_rank: int) -> torch.device:
    return torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")


def replicate(objective: Objective, _ranks: Ranks) -> nn.Module:
    """Give every rank all weights; gradients are added up while the last backward pass runs."""
    return DistributedDataParallel(objective, gradient_as_bucket_view=True)


def shard(objective: Objective, ranks: Ranks) -> nn.Module:
    """Give every rank a share of all weights, gathered layer by layer when they are needed.

    The weights come from rank 0, a layer at a time: the others may have the language model on the
    meta device. With `bf16` they are gathered in 16 bits and gradients are added up in 32. A vision
    tower that does not train stays whole on every rank: it is small, and ranks need not wait for
    one another to encode images. Raises LaternaError for weights in 4 bits.
    """
    assistant = objective.assistant
    if is_quantized(assistant.language):
        raise LaternaError(
            'language.quantize = "4bit" is not for fsdp, which shards whole weights; set '
            'run.engine = "ddp", or leave it out'
        )
    policy = MixedPrecisionPolicy()
    if objective.in_half:
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    # Where embeddings are frozen, a batch of text alone would give the first layer inputs without a
    # gradient, and its gradients would be added up later than on a rank that has images.
    assistant.language.enable_input_require_grads()
    for layer in layers_of(assistant.language):
        take_from_first(layer, ranks)
        fully_shard(layer, mp_policy=policy)
    take_from_first(objective, ranks)
    whole: set[nn.Parameter] = set()
    if not any(weight.requires_grad for weight in assistant.vision.parameters()):
        whole = set(assistant.vision.parameters())
    fully_shard(objective, mp_policy=policy, ignored_params=whole)
    return objective


@torch.no_grad()
def take_from_first(module: nn.Module, ranks: Ranks) -> None:
    """Copy rank 0's weights and buffers of a module to every rank's device, one at a time; sharded
    ones stay as they are, and tied ones stay tied.
    """
    if ranks.count == 1:
        return
    sent: dict[Tensor, Tensor] = {}
    for owner in module.modules():
        own = (*owner.named_parameters(recurse=False), *owner.named_buffers(recurse=False))
        for name, tensor in own:
            if isinstance(tensor, DTensor):
                continue
            if tensor not in sent:
                sent[tensor] = _sent(tensor, ranks)
            setattr(owner, name, sent[tensor])


def _sent(tensor: Tensor, ranks: Ranks) -> Tensor:
    if ranks.first:
        sent = tensor.detach().to(ranks.device).contiguous()
    else:
        sent = torch.empty(tensor.shape, dtype=tensor.dtype, device=ranks.device)
    distributed.broadcast(sent, src=0)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(sent, requires_grad=tensor.requires_grad)
    return sent


def without_weights(model: Made, part: nn.Module) -> Made:
    """Return a copy of a model whose `part` is on the meta device and has only shapes."""
    hollow: dict[int, Any] = {}
    for tensor in (*part.parameters(), *part.buffers()):
        shape = torch.empty_like(tensor, device="meta")
        if isinstance(tensor, nn.Parameter):
            shape = nn.Parameter(shape, requires_grad=tensor.requires_grad)
        hollow[id(tensor)] = shape
    return copy.deepcopy(model, hollow)


ENGINES: dict[Engine, Callable[[Objective, Ranks], nn.Module]] = {"ddp": replicate, "fsdp": shard}


@contextmanager
def reducing(model: nn.Module, reduces: bool) -> Iterator[None]:
    """Add up the ranks' gradients in the backward pass inside only where it `reduces`: in the last
    of a step.

    FSDP adds up after every pass, which keeps its memory small: its ranks take equally many.
    """
    skipped: AbstractContextManager[None] = nullcontext()
    if isinstance(model, DistributedDataParallel) and not reduces:
        skipped = model.no_sync()
    with skipped:
        yield


def gradient_norm(weights: Iterable[nn.Parameter], limit: float) -> Tensor:
    """Clip the gradients to a norm of `limit`, over all ranks; return the norm before (a scalar on
    their device, without waiting for it).
    """
    norm: Tensor = nn.utils.clip_grad_norm_(weights, limit)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def largest_weight(weights: Iterable[nn.Parameter]) -> float:
    """Return the largest magnitude of weights over all ranks; not finite where one of them is."""
    norm: Tensor = nn.utils.get_total_norm([weight.detach() for weight in weights], math.inf)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


def whole_tensor(tensor: Tensor) -> Tensor:
    """Return a weight as one tensor on the CPU; every rank must call it for a sharded one."""
    whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return whole.detach().cpu()


def is_sharded(model: nn.Module) -> bool:
    """Say whether no rank holds the whole model."""
    return isinstance(model, FSDPModule)
