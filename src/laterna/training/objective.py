"""The loss: the mean over all target tokens of an optimiser step, however the step is split.

Shapes: s target tokens · v vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from laterna.errors import LaternaError
from laterna.model.assistant import Assistant
from laterna.records import Batch


def count_targets(batches: Sequence[Batch]) -> int:
    """Count the target tokens of a step, over all its micro-batches.

    Raises LaternaError when there are none.
    """
    total = sum(int(batch.targets_rt.sum()) for batch in batches)
    if not total:
        names = ", ".join(name for batch in batches for name in batch.ids)
        raise LaternaError(f"{names}: no token carries loss; check the records' assistant turns")
    return total


def backward(assistant: Assistant, batches: Sequence[Batch]) -> tuple[Tensor, int]:
    """Add the gradients of one optimiser step; return its loss (a scalar) and its target tokens.

    Each micro-batch adds its summed cross-entropy divided by the whole step's number of targets,
    so neither the split into micro-batches nor the packing changes loss or gradients.
    """
    targets = count_targets(batches)
    total = torch.zeros((), device=assistant.device)
    for batch in batches:
        logits_sv, labels_s = assistant.target_logits(batch)
        loss = functional.cross_entropy(logits_sv.float(), labels_s, reduction="sum") / targets
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
    return total, targets
