"""The loss: the mean over all target tokens of an optimizer step, however the step is split.

Shapes: b images · c channels · h, w pixels · n features an image · d width · r rows ·
t tokens of a row · s target tokens · v vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from laterna.model.vlm import VisionLanguageModel
from laterna.records import Batch

LOGITS_AT_ONCE = 2**24
"""Most logits in memory at a time (64 MiB in float32), whatever vocabulary and batch."""


def count_targets(batches: Sequence[Batch]) -> int:
    """Count the target tokens of a step, over all its micro-batches."""
    return sum(int(batch.loss_mask_rt.sum()) for batch in batches)


def summed_loss(states_sd: Tensor, labels_s: Tensor, head: nn.Module, vocabulary: int) -> Tensor:
    """Return the summed cross-entropy (a scalar) of labels predicted from hidden states.

    Where there would be more than `LOGITS_AT_ONCE` logits, they are computed a chunk at a time, and
    again in the backward pass.
    """
    chunk = max(1, LOGITS_AT_ONCE // vocabulary)
    if len(labels_s) <= chunk:  # also for no labels, so that the head is part of the graph
        return _chunk_loss(states_sd, labels_s, head)
    total = torch.zeros((), device=states_sd.device)
    for states, labels in zip(
        torch.split(states_sd, chunk), torch.split(labels_s, chunk), strict=True
    ):
        total = total + checkpoint(
            _chunk_loss, states, labels, head, use_reentrant=False, preserve_rng_state=False
        )
    return total


def _chunk_loss(states_sd: Tensor, labels_s: Tensor, head: nn.Module) -> Tensor:
    logits_sv: Tensor = head(states_sd)
    return functional.cross_entropy(logits_sv.float(), labels_s, reduction="sum")


class Objective(nn.Module):
    """The assistant with its loss on top: what a distributed engine wraps.

    A batch without images runs a blank one, with weight zero, through vision and connector: engines
    that add up gradients over ranks wait for every part, and the optimizer moves a part whose
    gradient is zero, but not one that has none. So a step is the same on any number of ranks.
    """

    def __init__(self, assistant: VisionLanguageModel) -> None:
        super().__init__()
        self.assistant = assistant
        self.plain_head = assistant.plain_head  # asked now: later it may be sharded or counted
        self.in_half = False

    def forward(self, batch: Batch) -> Tensor:
        """Return the summed cross-entropy of a batch's target tokens, in nats (a scalar).

        Where `in_half` is set, all but the loss itself is computed in bfloat16.
        """
        kind = self.assistant.device.type
        with torch.autocast(kind, torch.bfloat16, enabled=self.in_half):
            return self._loss(batch)

    def _loss(self, batch: Batch) -> Tensor:
        assistant = self.assistant
        if self.plain_head:
            states_sd, labels_s = assistant.target_states(batch)
            head = assistant.language.get_output_embeddings()
            vocabulary = int(head.weight.shape[0])
            loss = summed_loss(states_sd, labels_s, head, vocabulary)
        else:
            logits_sv, labels_s = assistant.target_logits(batch)
            loss = functional.cross_entropy(logits_sv.float(), labels_s, reduction="sum")
        if not batch.images and torch.is_grad_enabled():
            loss = loss + self._untouched_parts()
        return loss

    def _untouched_parts(self) -> Tensor:
        """Return zero, computed through vision and connector."""
        assistant = self.assistant
        tower = assistant.vision
        if any(weight.requires_grad for weight in tower.parameters()):
            size = assistant.prepare.size
            features_bnd = tower(torch.zeros(1, 3, size, size, device=assistant.device))
        else:
            shape = (1, tower.patches, tower.width)
            features_bnd = torch.zeros(shape, device=assistant.device)
        zero: Tensor = 0.0 * assistant.connector(features_bnd).float().sum()
        newline_d = assistant.connector.image_newline
        return zero if newline_d is None else zero + 0.0 * newline_d.float().sum()


def empty_batch() -> Batch:
    """Return a batch of two padding tokens and no targets, for a rank that has nothing to do."""
    nothing_rt = torch.zeros(1, 2, dtype=torch.bool)
    return Batch(
        ids=(),
        input_ids_rt=torch.zeros(1, 2, dtype=torch.long),
        position_ids_rt=torch.arange(2)[None],
        loss_mask_rt=nothing_rt,
        image_mask_rt=nothing_rt,
    )
