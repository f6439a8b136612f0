"""Settings of the two pretrainings: what decides the shipped weights."""

from __future__ import annotations

import sys
from typing import TypeVar

from laterna.recipe import Settings
from laterna.world.scenes import MAX_TOYS

T = TypeVar("T")
Schedule = tuple[tuple[float, T], ...]
"""Up to which share of a pretraining which value holds."""


def scheduled(schedule: Schedule[T], index: int, count: int) -> T:
    """Return what a schedule has for number `index` of `count`."""
    return next(value for share, value in schedule if index <= share * count)


class VisionPretraining(Settings):
    """How the nano vision encoder is pretrained."""

    steps: int = 4000
    """Optimizer steps."""
    batch: int = 64
    """Fresh images a step."""
    curriculum: Schedule[int] = ((0.12, 1), (0.2, 2), (1.0, MAX_TOYS))
    """Up to which share of the steps the scenes hold at most how many toys: one thing is easier
    to name than five, and without this start the losses rest on a plateau for long."""
    lr: float = 1.2e-3
    """Peak learning rate."""
    captioning_weight: float = 1.0
    """Weight of the captioning loss beside the contrastive one."""
    seed: int = 0
    """Seed of the weights and of the pretraining images."""
    workers: int = 1
    """Processes that draw images ahead."""
    report_every: int = 100
    """Steps between two lines of figures (and two writings of the weights)."""


class RegionPretraining(Settings):
    """How the pretrained vision encoder goes on, patch by patch."""

    steps: int = 1500
    """Optimizer steps."""
    batch: int = 64
    """Fresh images a step."""
    lr: float = 1e-3
    """Peak learning rate."""
    seed: int = 0
    """Seed of the words' layer and of the images."""
    workers: int = 1
    """Processes that draw images ahead."""
    report_every: int = 100
    """Steps between two lines of figures (and two writings of the weights)."""


class LanguagePretraining(Settings):
    """How the nano language model is pretrained."""

    steps: int = 1500
    """Optimizer steps."""
    step_tokens: int = 5000
    """Tokens of fresh documents a step, about."""
    curriculum: Schedule[int] = ((0.02, 1), (0.08, 2), (0.25, 3), (1.0, MAX_TOYS))
    """As in the vision encoder's pretraining."""
    tables: Schedule[float] = ((0.4, 0.85), (1.0, 0.25))
    """Share of the documents that are tables: they teach looking up, questions how to be asked."""
    relations: float = 0.0
    """Share of the documents with tables that tell how things stand to each other, of those that
    have two things to compare, each alone of its kind."""
    counts: float = 0.0
    """Share of the documents with tables that tell how many there are of what."""
    repeats: float = 0.0
    """Share of the documents about scenes that were chosen for having several of a kind."""
    squares: Schedule[float] = ((0.28, 0.08), (0.42, 0.3), (1.0, 1.0))
    """Share of the squares that maps have."""
    pack_length: int = 320
    """Tokens of a packed row."""
    lr: float = 5e-3
    """Peak learning rate."""
    vocabulary: int = 1200
    """Tokens of the tokenizer, at most."""
    seed: int = 1
    """Seed of the weights and of the pretraining texts."""
    report_every: int = 50
    """Steps between two lines of figures (and two writings of the weights)."""


SECOND_COURSE = LanguagePretraining(
    steps=1000,
    curriculum=((1.0, MAX_TOYS),),
    tables=((1.0, 0.3),),
    relations=0.67,
    squares=((1.0, 1.0),),
    lr=3e-3,
    seed=2,
)
"""How the language model goes on once it can look things up: what needs two lookups."""

THIRD_COURSE = LanguagePretraining(
    steps=1200,
    curriculum=((0.1, 3), (1.0, MAX_TOYS)),
    tables=((1.0, 0.4),),
    relations=0.5,
    counts=0.5,
    squares=((0.1, 0.08), (0.25, 0.3), (1.0, 1.0)),
    lr=3e-3,
    seed=3,
)
"""How it goes on once more, with maps that mark what is to be counted, thin ones first again."""

FOURTH_COURSE = LanguagePretraining(
    steps=600,
    curriculum=((1.0, MAX_TOYS),),
    tables=((1.0, 0.6),),
    relations=0.5,
    counts=0.7,
    repeats=0.7,
    squares=((1.0, 1.0),),
    pack_length=8192,
    lr=3e-3,
    seed=4,
)
"""How it learns to count three and more, which most scenes have not."""

FURTHER = {"second": SECOND_COURSE, "third": THIRD_COURSE, "fourth": FOURTH_COURSE}
"""The courses that go on with a language model, in their order."""


class EncoderDecoderPretraining(Settings):
    """How the nano encoder-decoder is made of the nano language model."""

    decoder_layers: tuple[int, ...] = (0, 3)
    """The language model's layers that the decoder begins with; the encoder has all."""
    steps: int = 1300
    """Optimizer steps."""
    answers: int = 64
    """Answers a step, each with all that is read before it, in a row of its own."""
    micro_batch_tokens: int = 2500
    """Tokens of a forward pass, padding included."""
    documents: LanguagePretraining = LanguagePretraining(
        steps=1300,
        step_tokens=3000,
        curriculum=((1.0, MAX_TOYS),),
        tables=((0.3, 0.3), (1.0, 0.1)),
        relations=0.5,
        counts=0.5,
        repeats=0.4,
        squares=((0.06, 0.1), (0.15, 0.4), (1.0, 1.0)),
        seed=5,
    )
    """The documents of a step: those of the language model, other ones."""
    lr: float = 2e-3
    """Peak learning rate."""
    seed: int = 5
    """Seed of what the language model has no weights for."""
    report_every: int = 25
    """Steps between two lines of figures (and two writings of the weights)."""


def report(figures: dict[str, float]) -> None:
    """Write a line of figures to standard error."""
    sys.stderr.write("  ".join(f"{k} {v:.4g}" for k, v in figures.items()) + "\n")
