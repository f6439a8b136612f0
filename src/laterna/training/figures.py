"""What an optimiser step did, as a record: what the bar shows, files keep and trackers are told."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import msgspec


class SampleAnswer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the assistant says, greedily, where a held-out record has its first answer."""

    id: str
    """Of the record."""
    prompt: str
    """All that stands before the answer, its pictures left out."""
    answer: str
    truth: str
    """The record's."""


class HeldOut(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A look at records that are not trained on, after a step."""

    loss: float | None
    """Mean cross-entropy over their target tokens, in nats, with dropout off; None: not finite."""
    target_tokens: int
    records: int
    seconds: float
    """That the look took."""
    answers: tuple[SampleAnswer, ...] = ()


class StepFigures(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one optimiser step did over all ranks: a line of `metrics.jsonl`."""

    step: int
    """Counted from 1."""
    loss: float
    """Mean cross-entropy over the step's target tokens, in nats."""
    lr: float
    """The largest learning rate of the step's parameter groups."""
    grad_norm: float
    """Before clipping."""
    target_tokens: int
    tokens: int
    """Tokens computed: text, pictures and padding."""
    padding: int = 0
    """Of these, the padding."""
    pictures: int
    skipped: int = 0
    """Steps skipped so far, since loss or gradient was not finite; they have no line."""
    empty: int = 0
    """Steps without a line beside those, for all their records had lost their pictures."""
    faulty: int = 0
    """Records left out so far for a picture that cannot be read."""
    seconds: float
    """Wall-clock from the end of the step before, whatever was done since, but for a look at what
    is held out: waiting for batches, writing figures and states."""
    model_seconds: float = 0.0
    """Of these, forward, backward and optimiser."""
    vision_seconds: float = 0.0
    """Of these, the vision tower, as the mean over the ranks: forward, and backward where it
    trains."""
    flops: float = 0.0
    """Of the model, forward and backward, padding left out; 0: not known."""
    mfu: float | None = None
    """These over `seconds`, as a share of what matrix products reach here (`training.meter`),
    0..1."""
    held_out: HeldOut | None = None
    """After the steps that one looks after."""

    @property
    def padding_share(self) -> float:
        """Share of the tokens computed that are padding, 0..1."""
        return self.padding / self.tokens if self.tokens else 0.0


class Speeds(NamedTuple):
    """How fast steps were, and where their time went."""

    seconds: float
    """Of all of them."""
    target_tokens: float
    """A second, as the next two."""
    tokens: float
    pictures: float
    mfu: float | None
    """As in `StepFigures`; None where it is known of no step."""
    padding: float
    """Share of the tokens, 0..1."""
    vision: float
    """Share of the seconds that the vision tower took, 0..1."""
    loop: float
    """Share that was neither forward, backward nor optimiser, 0..1."""


def speeds(steps: Collection[StepFigures]) -> Speeds:
    """Return how fast steps were, taken together; there is at least one."""

    def total(name: str) -> float:
        return float(sum(getattr(step, name) for step in steps))

    seconds = total("seconds")
    known = [step.mfu * step.seconds for step in steps if step.mfu is not None]
    return Speeds(
        seconds=seconds,
        target_tokens=total("target_tokens") / seconds,
        tokens=total("tokens") / seconds,
        pictures=total("pictures") / seconds,
        mfu=sum(known) / seconds if known else None,
        padding=total("padding") / max(1.0, total("tokens")),
        vision=total("vision_seconds") / seconds,
        loop=1 - total("model_seconds") / seconds,
    )


def named_figures(figures: StepFigures) -> dict[str, float]:
    """Return the figures that are known by the names that they have in trackers, speeds among them.

    What stands before the slash is how TensorBoard groups its charts.
    """
    named = {
        "train/loss": figures.loss,
        "train/lr": figures.lr,
        "train/grad_norm": figures.grad_norm,
        "train/skipped": figures.skipped,
        "train/faulty": figures.faulty,
        "speed/target_tokens_per_second": figures.target_tokens / figures.seconds,
        "speed/tokens_per_second": figures.tokens / figures.seconds,
        "speed/pictures_per_second": figures.pictures / figures.seconds,
        "speed/padding_share": figures.padding_share,
        "speed/vision_share": figures.vision_seconds / figures.seconds,
        "speed/seconds": figures.seconds,
    }
    if figures.mfu is not None:
        named["speed/mfu"] = figures.mfu
    if figures.held_out is not None and figures.held_out.loss is not None:
        named["held_out/loss"] = figures.held_out.loss
    return named
