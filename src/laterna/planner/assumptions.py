"""What a plan takes as given: the records' lengths, the machine, and how well it is used."""

from __future__ import annotations

from typing import Literal

import torch

from laterna.errors import LaternaError
from laterna.recipe import StageName
from laterna.records import Record

Precision = Literal["float32", "mixed"]


class Lengths(Record):
    """The records of a stage without their pictures, in tokens."""

    text: int
    """Of a typical record: FLOPs and hours follow from it."""
    targets: int
    """Of its text, what is learned."""
    longest: int
    """Of the longest record: others are padded to it while the micro-batch has room, so memory
    follows from it."""


LENGTHS: dict[StageName, Lengths] = {
    "align": Lengths(text=20, targets=18, longest=60),
    "instruct": Lengths(text=200, targets=130, longest=600),
}
"""Assumed, unless told: a caption of a dozen words; a chat of a few turns; the
longest three times as long."""


class Assumptions(Record):
    """Everything but the recipe. Raises LaternaError for what is out of range."""

    gpus: int = 1
    """GPUs that share each step."""
    precision: Precision = "float32"
    mfu: float = 0.4
    """Share of the GPU's peak rate that the model's own FLOPs reach (model FLOPs utilisation)."""
    headroom: float = 0.1
    """Share of a GPU's memory left to its driver, to libraries and to fragmentation."""
    price: float | None = None
    """Money a GPU costs in an hour."""

    def __post_init__(self) -> None:
        if self.gpus < 1:
            raise LaternaError(f"--gpus {self.gpus}: at least 1 is needed")
        if not 0 < self.mfu <= 1:
            raise LaternaError(f"--mfu {self.mfu:g}: a share of the peak, above 0 and at most 1")
        if not 0 <= self.headroom < 1:
            raise LaternaError(f"--headroom {self.headroom:g}: a share of the memory, below 1")
        if self.price is not None and self.price < 0:
            raise LaternaError(f"--price {self.price:g}: a price an hour, not below 0")


class Format(Record):
    """How a precision stores things."""

    dtype: str
    """Of weights, gradients and activations in a step, by torch's name."""
    optimiser: int
    """Bytes that the optimiser holds for each trained weight."""

    def torch_dtype(self) -> torch.dtype:
        """Return the dtype itself."""
        found: torch.dtype = getattr(torch, self.dtype)
        return found


FORMATS: dict[Precision, Format] = {
    "float32": Format(dtype="float32", optimiser=8),
    "mixed": Format(dtype="bfloat16", optimiser=12),
}
"""AdamW's two moments are in float32; in `mixed` it also holds the weights in float32."""
