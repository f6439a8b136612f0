"""How many bytes are alive at every moment of a rehearsal."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]  # untyped base
    """Counts the storages of tensors, from when an operator makes them until nothing holds them.

    A storage that several tensors look into counts once. `now` are the bytes alive, `peak` the
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


def weights_and_buffers(modules: Iterable[nn.Module]) -> list[Tensor]:
    """Return all that modules hold, shared weights once."""
    held = {id(one): one for module in modules for one in (*module.parameters(), *module.buffers())}
    return list(held.values())
