"""What each part of our side brings, in `training.py`: one switched off at a time.

Each is a context in which training does without it, over the same records in the same order.
Shapes: b images · c channels · h, w pixels · n features an image · d width · r rows · t tokens
of a row · s target tokens · v vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from torch import Tensor
from torch.nn import functional

from laterna.data.packing import plan_packs
from laterna.model.attention.shared_prefix import before_targets
from laterna.records import Batch, Pack, Sample
from laterna.training import dataloader, setup
from laterna.training.objective import Objective

ROWS = 4
"""Rows a forward pass where none are chosen for their length."""


@contextmanager
def padded() -> Iterator[None]:
    """Put rows of any length together and pad them to the longest."""

    def plan(packs: Sequence[Pack], **_: Any) -> list[list[Pack]]:
        order = np.random.default_rng(len(packs)).permutation(len(packs))
        mixed = [packs[int(place)] for place in order]
        return [mixed[first : first + ROWS] for first in range(0, len(mixed), ROWS)]

    with patch.object(dataloader, "plan_batches", plan):
        yield


@contextmanager
def not_shared() -> Iterator[None]:
    """Compute an image for each of its records."""

    def separate(chosen: Sequence[Sample], stage: Any) -> list[Pack]:
        return plan_packs(
            chosen, pack_length=stage.pack_length, micro_batch_tokens=stage.micro_batch_tokens
        )

    with patch.object(dataloader, "step_packs", separate):
        yield


def whole_loss(objective: Objective, batch: Batch) -> Tensor:
    """Return the loss as one does who makes the logits of every token."""
    assistant = objective.assistant
    head = assistant.language.get_output_embeddings()
    logits_rtv = head(assistant.hidden_states(batch)).float()
    before_s = before_targets(batch).to(logits_rtv.device)
    logits_sv = logits_rtv.flatten(0, 1).index_select(0, before_s)
    learned = batch.loss_mask_rt[:, 1:]
    labels_s = batch.input_ids_rt[:, 1:][learned].to(logits_rtv.device)
    return functional.cross_entropy(logits_sv, labels_s, reduction="sum")


@contextmanager
def all_logits() -> Iterator[None]:
    """Make the logits of every token, and take the targets' afterwards."""
    with patch.object(Objective, "_loss", whole_loss):
        yield


@contextmanager
def all_layers() -> Iterator[None]:
    """Run every layer of the encoder, those behind the features too."""
    real = setup.begin

    def begin(recipe: Any, start: Path | None, known: Any = None) -> Any:
        assistant = real(recipe, start, known)
        tower = assistant.vision
        whole = type(tower.model)(tower.model.config)
        whole.load_state_dict(tower.weights())
        tower.model = whole.eval()

        def see(pixels_bchw: Tensor) -> Tensor:
            pixels_bchw = pixels_bchw.to(tower.model.dtype)
            seen = tower.model(pixel_values=pixels_bchw, output_hidden_states=True)
            features_bnd: Tensor = seen.hidden_states[tower.layer][:, 1:]
            return features_bnd

        tower.forward = see
        return assistant

    with patch.object(setup, "begin", begin):
        yield


PARTS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "no padding": padded,
    "shared images": not_shared,
    "logits at targets": all_logits,
    "fewer vision layers": all_layers,
}
"""By the name of the part that each does without."""
