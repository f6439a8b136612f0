"""The training loop: forward, backward, clipping, step, and nothing hidden."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from msgspec.structs import replace

from laterna.errors import LaternaError
from laterna.recipe import RunSettings
from laterna.training.dataloader import FAULTS, Lost, Step
from laterna.training.objective import count_targets, empty_batch
from laterna.training.parallel import gradient_norm, reducing
from laterna.training.throughput import UNKNOWN, Meter, StepFigures, Validation
from laterna.training.train_state import Progress, TrainState, diverged, named_few

HOPELESS = 3.0
"""No working model has so many times the loss of guessing, on the records it just learned from."""


def _never(_step: int) -> Validation | None:
    return None


def train_steps(
    train_state: TrainState,
    steps: Iterable[Step],
    limits: RunSettings,
    *,
    seed: int,
    meter: Meter = UNKNOWN,
    validate: Callable[[int], Validation | None] = _never,
) -> Iterator[StepFigures]:
    """Train on each step's micro-batches in turn and yield what the step did.

    A step whose loss or gradient is not finite, or whose records have all lost their images,
    changes nothing and yields nothing. What a step draws at random follows from `seed`, step and
    rank alone. `validate` is called after each step, counted from 1. Raises LaternaError, naming
    records and images, when more steps in a row were skipped, or more images were faulty, than
    `limits` allow; and, naming the step, for weights that a step made useless.
    """
    ranks = train_state.ranks
    begun = time.perf_counter()
    last: Step | None = None
    first = 0.0
    lost: list[Lost] = []
    for step in steps:
        torch.manual_seed(seed + (step.number * ranks.count + ranks.rank) * 1_000_003)
        started = time.perf_counter()
        done = take_step(train_state, step, meter)
        now = time.perf_counter()
        seconds, begun = now - begun, now
        train_state.progress = _after(train_state.progress, done)
        lost += step.lost
        _require_within(limits, train_state, done, step, lost)
        if done.finite:
            last, lost, first = step, [], first or done.figures.loss
            progress = train_state.progress
            validation = validate(progress.step)
            begun += time.perf_counter() - now  # which is no part of the next step
            yield replace(
                done.figures,
                step=progress.step,
                skipped=progress.skipped,
                empty=progress.empty,
                faulty=sum(progress.faulty.values()),
                seconds=seconds,
                model_seconds=now - started,
                mfu=meter.mfu(done.figures.flops, seconds),
                validation=validation,
            )
    _require_alive(train_state, last, first)


def _require_alive(train_state: TrainState, last: Step | None, first: float) -> None:
    """Raise LaternaError where weights are not sound, or the loss on the last step's records is not
    finite, or far above that of guessing and above `first`, the first step's. No later step would
    notice.
    """
    train_state.require_sound()
    if last is None:
        return
    batches = last.batches or (empty_batch(),)
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        loss = sum(float(train_state.model(batch)) for batch in batches)
    train_state.clock.take_seconds()  # else the next step would have the tower's time
    whole, targets = train_state.ranks.total([loss, count_targets(batches)])
    whole /= targets
    head = train_state.objective.assistant.language.get_output_embeddings()
    guessing = math.log(head.weight.shape[0])
    if not whole <= HOPELESS * max(guessing, first):
        said = f"the loss of its own records is {whole:g}, where {guessing:.3g} is that of guessing"
        raise diverged(last.number + 1, said)


def require_few_faulty(
    faulty: Mapping[str, int], limits: RunSettings, where: str, which: Sequence[str] = ()
) -> None:
    """Raise LaternaError when more records were left out for their images than `limits` allow.

    `faulty` has their numbers by reason, of which only `FAULTS` count; `which` names some.
    """
    counts = {name: faulty[name] for name in FAULTS if faulty.get(name)}
    if sum(counts.values()) > limits.max_faulty:
        reasons = ", ".join(f"{count} × {name}" for name, count in counts.items())
        named = f"{named_few(which)}; " if which else ""
        raise LaternaError(
            f"{where}: {reasons}: {named}more records left out than run.max_faulty = "
            f"{limits.max_faulty}; see that the images are whole, or raise the limit"
        )


def take_step(train_state: TrainState, step: Step, meter: Meter) -> Outcome:
    """Add up the gradients of a step over its micro-batches and all ranks, and take it."""
    ranks = train_state.ranks
    rate = train_state.set_rates(step.number)
    batches = step.batches or (empty_batch(),)
    targets = ranks.total([count_targets(batches)])[0]
    loss = torch.zeros((), device=ranks.device)
    for number, batch in enumerate(batches, start=1):
        with reducing(train_state.model, number == len(batches)):
            # Engines average over the ranks, but the loss is a sum over all targets.
            part = train_state.model(batch) / max(targets, 1.0)
            (part * ranks.count).backward()
            train_state.clock.after_backward()
        loss += part.detach()
    limit = train_state.stage.max_grad_norm or math.inf
    norm_s = gradient_norm(train_state.weights.values(), limit)
    flops = meter.flops(step.batches, step.length)
    own_loss, norm = torch.stack([loss, norm_s.to(loss)]).tolist()  # the only wait for a GPU
    whole_loss, flops, vision, *counts = ranks.total(
        [own_loss, flops, train_state.clock.take_seconds() / ranks.count]
        + [step.tokens, step.tokens - step.length, step.images]
        + [step.faulty.get(reason, 0) for reason in FAULTS]
    )
    finite = targets > 0 and math.isfinite(whole_loss) and math.isfinite(norm)
    if finite:
        train_state.optimizer.step()
    train_state.optimizer.forget_gradients()
    tokens, padding, images, *faults = (int(count) for count in counts)
    figures = StepFigures(
        step=step.number + 1,
        loss=whole_loss,
        lr=rate,
        grad_norm=norm,
        target_tokens=int(targets),
        tokens=tokens,
        padding=padding,
        images=images,
        seconds=0.0,
        vision_seconds=vision,
        flops=flops,
    )
    return Outcome(finite, figures, dict(zip(FAULTS, faults, strict=True)))


class Outcome(NamedTuple):
    """What a step did, over all ranks."""

    finite: bool
    """Whether it was taken: it had targets, and loss and gradient were finite."""
    figures: StepFigures
    """Of the step alone, without times and without what was skipped before."""
    faulty: dict[str, int]
    """Records left out, by reason."""


def _after(progress: Progress, done: Outcome) -> Progress:
    return replace(
        progress,
        step=progress.step + 1,
        skipped=progress.skipped + (not done.finite and done.figures.target_tokens > 0),
        empty=progress.empty + (done.figures.target_tokens == 0),
        skipped_in_a_row=0 if done.finite else progress.skipped_in_a_row + 1,
        faulty={name: progress.faulty.get(name, 0) + count for name, count in done.faulty.items()},
    )


def _require_within(
    limits: RunSettings, train_state: TrainState, done: Outcome, step: Step, lost: Sequence[Lost]
) -> None:
    progress = train_state.progress
    which = [str(one) for one in lost]
    require_few_faulty(progress.faulty, limits, f"step {progress.step}", which)
    row = progress.skipped_in_a_row
    if row <= limits.max_skipped:
        return
    if not done.figures.target_tokens:
        named = f": {named_few(which)}" if which else ""
        raise LaternaError(
            f"step {progress.step}: none of its records is left, as in {row} steps in a row, for "
            f"their images are missing or cannot be read{named}; see that the images are whole "
            f"and lie where the recipe says (run.max_skipped = {limits.max_skipped})"
        )
    if row < progress.step:
        train_state.require_sound()
    loss, norm = done.figures.loss, done.figures.grad_norm
    raise LaternaError(
        f"step {progress.step}: loss {loss:g}, gradient norm {norm:g}: not finite, "
        f"{row} steps in a row; in records {named_few(step.ids)}; "
        "lower the learning rate or look at these records"
    )
