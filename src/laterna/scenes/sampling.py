"""Drawing lots: one of several, or all in random order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def pick(options: Sequence[T], rng: np.random.Generator) -> T:
    """Return one of the options, each as likely as the others."""
    return options[int(rng.integers(len(options)))]


def shuffled(items: Sequence[T], rng: np.random.Generator) -> list[T]:
    """Return the items in random order."""
    return [items[number] for number in rng.permutation(len(items))]
