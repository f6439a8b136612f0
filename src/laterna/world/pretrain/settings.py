"""Settings of the two pretrainings: what decides the shipped weights."""

from __future__ import annotations

import sys

from laterna.recipe import Settings
from laterna.world.scenes import MAX_TOYS

Curriculum = tuple[tuple[float, int], ...]
"""Up to which share of a pretraining the scenes hold at most how many toys."""


def max_toys(curriculum: Curriculum, index: int, count: int) -> int:
    """Return how many toys scene number `index` of `count` may hold."""
    return next(toys for share, toys in curriculum if index <= share * count)


class VisionPretraining(Settings):
    """How the nano vision encoder is pretrained."""

    steps: int = 4000
    """Optimiser steps."""
    batch: int = 64
    """Fresh pictures a step."""
    curriculum: Curriculum = ((0.12, 1), (0.2, 2), (1.0, MAX_TOYS))
    """Up to which share of the steps the scenes hold at most how many toys: one thing is easier
    to name than five, and without this start the losses rest on a plateau for long."""
    lr: float = 1.2e-3
    """Peak learning rate."""
    captioning_weight: float = 1.0
    """Weight of the captioning loss beside the contrastive one."""
    seed: int = 0
    """Seed of the weights and of the pretraining pictures."""
    workers: int = 1
    """Processes that draw pictures ahead."""
    report_every: int = 100
    """Steps between two lines of figures (and two writings of the weights)."""


class LanguagePretraining(Settings):
    """How the nano language model is pretrained."""

    steps: int = 3000
    """Optimiser steps."""
    batch: int = 32
    """Fresh texts a step."""
    curriculum: Curriculum = ((0.1, 1), (0.2, 2), (1.0, MAX_TOYS))
    """As in the vision encoder's pretraining."""
    row_tokens: int = 384
    """Tokens of a packed row."""
    lr: float = 2e-3
    """Peak learning rate."""
    vocabulary: int = 1200
    """Tokens of the tokenizer, at most."""
    seed: int = 1
    """Seed of the weights and of the pretraining texts."""
    report_every: int = 100
    """Steps between two lines of figures (and two writings of the weights)."""


def report(figures: dict[str, float]) -> None:
    """Write a line of figures to standard error."""
    sys.stderr.write("  ".join(f"{k} {v:.4g}" for k, v in figures.items()) + "\n")
