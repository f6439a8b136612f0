"""Torch's two engines behind one name each: how ranks share weights and add up gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from laterna.errors import LaternaError
from laterna.model.language.quantize import is_quantised
from laterna.recipe import Engine
from laterna.training.objective import Objective
from laterna.training.stages import layers_of


def replicate(objective: Objective) -> nn.Module:
    """Give every rank all weights; gradients are added up while the last backward pass runs."""
    return DistributedDataParallel(objective, gradient_as_bucket_view=True)


def shard(objective: Objective) -> nn.Module:
    """Give every rank a share of all weights, gathered layer by layer when they are needed.

    A vision tower that does not train stays whole on every rank: it is small, and ranks need not
    wait for one another to look at pictures. Raises LaternaError for weights in 4 bits.
    """
    assistant = objective.assistant
    if is_quantised(assistant.language):
        raise LaternaError(
            'language.quantise = "4bit" is not for fsdp, which shards whole weights; set '
            'run.engine = "ddp", or leave it out'
        )
    whole: set[nn.Parameter] = set()
    if not any(weight.requires_grad for weight in assistant.vision.parameters()):
        whole = set(assistant.vision.parameters())
    # Text alone would give the first layer inputs without a gradient where embeddings are frozen:
    # its gradients would then be added up later than on a rank that has pictures.
    assistant.language.enable_input_require_grads()
    for layer in layers_of(assistant.language):
        fully_shard(layer, ignored_params=whole)
    fully_shard(objective, ignored_params=whole)
    return objective


ENGINES: dict[Engine, Callable[[Objective], nn.Module]] = {"ddp": replicate, "fsdp": shard}


@contextmanager
def reducing(model: nn.Module, reduces: bool) -> Iterator[None]:
    """Say whether the backward pass inside is the step's last, which adds up the ranks' gradients.

    FSDP adds up after every pass, which keeps its memory small: its ranks take equally many.
    """
    skipped: AbstractContextManager[None] = nullcontext()
    if isinstance(model, DistributedDataParallel) and not reduces:
        skipped = model.no_sync()
    with skipped:
        yield


def gradient_norm(weights: Iterable[nn.Parameter], limit: float) -> float:
    """Scale the gradients down to a norm of `limit`, over all ranks; return the norm before."""
    norm: Tensor = nn.utils.clip_grad_norm_(weights, limit)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


def weights_norm(weights: Iterable[nn.Parameter]) -> float:
    """Return the norm of weights over all ranks, in their own precision: it is not finite where one
    of them is not, or where they are so large that their squares are not.
    """
    norm: Tensor = nn.utils.get_total_norm([weight.detach() for weight in weights])
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


def whole_tensor(tensor: Tensor) -> Tensor:
    """Return a weight as one tensor on the CPU; every rank must ask for a sharded one."""
    whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return whole.detach().cpu()


def is_sharded(model: nn.Module) -> bool:
    """Say whether no rank holds the whole model."""
    return isinstance(model, FSDPModule)
