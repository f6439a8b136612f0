"""The processes of one run: `torchrun` starts them, this file lets them agree.

A run without `torchrun` is one rank, and nothing here then costs anything.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import distributed


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together."""

    rank: int
    """Counted from 0; rank 0 speaks and writes."""
    count: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process speaks and writes for all."""
        return self.rank == 0

    def total(self, values: Sequence[float]) -> list[float]:
        """Return the sums of the values over all ranks; every rank must ask."""
        if self.count == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.all_reduce(sums)
        return [float(value) for value in sums.tolist()]

    def any(self, flag: bool) -> bool:
        """Return whether any rank says so; every rank must ask."""
        return self.total([float(flag)])[0] > 0

    def wait(self) -> None:
        """Return when every rank has come here."""
        if self.count > 1:
            distributed.barrier()

    @contextmanager
    def first_alone(self) -> Iterator[None]:
        """Let rank 0 do what is inside before the others: it makes files that they then read."""
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

    On GPUs each process takes the one of its local rank and they speak over nccl, on CPUs over
    gloo. A process that had joined before stays so.
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
