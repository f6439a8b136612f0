"""What a plan takes as given: the records' lengths, the machine and how well it is used; and how
such records fill the rows and micro-batches of a step, before one is seen.
"""

from __future__ import annotations

import math

import torch

from laterna.errors import LaternaError
from laterna.planner.dry_run import Load
from laterna.planner.hardware import Dtype
from laterna.recipe import Precision, StageName, StageSettings
from laterna.records import Record


class Lengths(Record):
    """The records of a stage without their images, in tokens."""

    text: int
    """Of a typical record: FLOPs and hours follow from it."""
    targets: int
    """Of its text, what is learned."""
    longest: int
    """Of the longest record: others are padded to it while the micro-batch has room, so memory
    follows from it."""
    per_image: int = 1
    """Records about one image: they stand in one row behind it where a stage shares images."""


LENGTHS: dict[StageName, Lengths] = {
    "align": Lengths(text=20, targets=18, longest=60, per_image=5),
    "instruct": Lengths(text=200, targets=130, longest=600, per_image=3),
}
"""Assumed, unless told: a caption of a dozen words, as COCO has five of an image; a chat of a few
turns, as LLaVA has three (conversation, detail, reasoning); the longest three times as long."""


class Assumptions(Record):
    """Everything but the recipe. Raises LaternaError for what is out of range."""

    gpus: int = 1
    """Number of GPUs."""
    mfu: float = 0.4
    """Share of the GPU's peak rate that the model's own FLOPs reach (model FLOPs utilization)."""
    headroom: float = 0.1
    """Share of a GPU's memory left to its driver, to libraries and to fragmentation."""
    price: float | None = None
    """Money a GPU costs in an hour."""
    tiles: int | None = None
    """Tiles of every image, the whole view included; None: by the images' sizes, where these can be
    read."""

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

    dtype: Dtype
    """Of weights and activations in a step, by torch's name."""
    master: int
    """Bytes of each trained weight's copy in float32, which the optimizer changes."""

    def torch_dtype(self) -> torch.dtype:
        """Return the dtype itself."""
        found: torch.dtype = getattr(torch, self.dtype)
        return found


FORMATS: dict[Precision, Format] = {
    "float32": Format(dtype="float32", master=0),
    "bf16": Format(dtype="bfloat16", master=4),
}
EXACT = torch.float32.itemsize
"""Bytes of a number of a gradient, and of one that an optimizer remembers, in both precisions."""


def fill_step(
    settings: StageSettings, lengths: Lengths, image_tokens: int, *, gpus: int
) -> tuple[Load, int]:
    """Return the largest micro-batch on one GPU, and how many a step takes.

    Typical records fill it, padded to the longest record, or as far as `micro_batch_tokens` allows.
    Where images are shared, all records about one are in a row behind it, as far as a row may be
    long; the longest row has one of the longest records.

    Raises LaternaError for more target tokens than text, and for a record longer than the stage
    takes.
    """
    tokens = image_tokens + lengths.text
    if not 0 < lengths.targets <= lengths.text <= lengths.longest:
        raise LaternaError(
            f"{lengths.targets} target tokens of {lengths.text} text tokens, the longest "
            f"{lengths.longest}: each is at most the next"
        )
    if tokens > settings.max_tokens:
        raise LaternaError(
            f"a record of {tokens} tokens, {image_tokens} of them the image's, is longer than "
            f"max_tokens = {settings.max_tokens}: it would be dropped; raise max_tokens"
        )
    if 0 < settings.pack_length < tokens:
        raise LaternaError(
            f"a record of {tokens} tokens, {image_tokens} of them the image's, is longer than a "
            f"row of pack_length = {settings.pack_length}; raise pack_length, or set it to 0"
        )
    together = records_together(settings, lengths, image_tokens)
    text = together * lengths.text
    tokens = image_tokens + text
    families = math.ceil(settings.global_batch_size / (gpus * together))
    packed = max(1, min(settings.pack_length // tokens, families))
    rows = math.ceil(families / packed)
    at_once = min(rows, max(1, settings.micro_batch_tokens // (packed * tokens)))
    longest = min(image_tokens + lengths.longest, settings.max_tokens)
    longer = longest - image_tokens - lengths.text
    # Several rows are filled up; a step's only row is as long as its records.
    widest = packed * tokens + longer
    if rows > 1:
        widest = max(tokens + longer, settings.pack_length)
    width = max(packed * tokens, min(widest, settings.micro_batch_tokens // at_once))
    load = Load(
        rows=at_once,
        images=packed,
        text=width - packed * image_tokens,
        targets=packed * together * lengths.targets,
        records=together,
    )
    return load, math.ceil(rows / at_once)


def records_together(settings: StageSettings, lengths: Lengths, image_tokens: int) -> int:
    """Return how many records share a row behind one image: those about it, as far as a row may be
    long.
    """
    if not settings.shared_prefix:
        return 1
    room = (settings.pack_length or settings.micro_batch_tokens) - image_tokens
    return max(1, min(lengths.per_image, room // lengths.text))
