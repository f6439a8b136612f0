"""One training stage from recipe to checkpoint; reads as the recipe does.

`train`: check the settings (`checks`), set up (`setup`), go on where a killed run was (`resume`),
follow the steps (`loop`), save the checkpoint. A `StageRun` holds what all of these need.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import torch

from laterna.errors import LaternaError
from laterna.files import Made, require_replaceable
from laterna.model import checkpoint as checkpoints
from laterna.model.checkpoint import save_checkpoint
from laterna.model.vlm import VisionLanguageModel
from laterna.recipe import Recipe, StageName, checked
from laterna.training.checks import (
    held_by_one,
    require_not_anothers,
    require_sensible,
    require_start,
    require_there,
)
from laterna.training.dataloader import count_steps, feed
from laterna.training.loop import train_steps
from laterna.training.parallel import is_sharded, joined_ranks, whole_tensor
from laterna.training.resume import Found, stop_requests
from laterna.training.setup import Setup, StageRun, begin, open_run, set_up
from laterna.training.stages import apply_stage, summarize
from laterna.training.telemetry import (
    MetricsFile,
    StageBar,
    TrackedRun,
    Tracker,
    read_metrics,
    skipped_so_far,
    summary,
    watched,
)
from laterna.training.throughput import StepFigures
from laterna.training.trackers import TRACKERS
from laterna.training.train_state import Progress, TrainState
from laterna.training.validation import Validator

LAST_SHARE = 0.05
"""Share of the steps over which the last loss is averaged."""


def train(
    recipe: Recipe,
    *,
    stage: StageName,
    out: Path,
    init_from: Path | None = None,
    overwrite: bool = False,
) -> Path:
    """Train one stage and save the assistant as checkpoint `out`; return `out`.

    `init_from` is what to go on from: a checkpoint (stage 1's, for stage 2), or a file of a
    connector's weights; without it the stage begins from the recipe's sources and a fresh
    connector. A stage that was interrupted goes on at its newest saved state, in `<out>.state`;
    one that is done is not done again; the finished checkpoint of another run is replaced with
    `overwrite` alone. While it trains, no other run may write there, and its figures by step are
    in `<out>.metrics.jsonl`; the checkpoint then holds them.

    Raises LaternaError for anything in recipe, data or checkpoint that stops the run, and
    SystemExit (143) or KeyboardInterrupt when a signal does, after the state was saved.
    """
    recipe = checked(recipe)
    require_sensible(recipe, [stage])
    require_start(recipe, init_from)
    require_there(recipe.stage(stage))
    if recipe.threads > 0:
        torch.set_num_threads(recipe.threads)
    require_replaceable(out, Made(kind=checkpoints.KIND, later=(checkpoints.PAGE,)))
    with joined_ranks() as ranks, held_by_one(out, stage, ranks):
        run = open_run(recipe, stage, out, init_from, ranks)
        if run.is_done():
            line = f"{out}: this very run was done before; remove it to train anew"
            run.console.print(line, soft_wrap=True, markup=False)
        else:
            if not overwrite:
                require_not_anothers(out, recipe, stage)
            _finish(run, _train(run))
        ranks.wait()  # else a rank may still ask whether it is done
        if ranks.first:  # also after a run that was killed once its checkpoint was there
            run.metrics.unlink(missing_ok=True)
            run.states.clear()
        ranks.wait()
    return out


def _train(run: StageRun) -> TrainState:
    """Set the stage up, go on where it was, and train to its end."""
    found = run.states.find()
    ready = set_up(run, goes_on=found.step > 0)
    train_state = TrainState(
        ready.assistant,
        run.settings,
        total=count_steps(len(ready.prepared.samples), run.settings),
        ranks=run.ranks,
        engine=run.recipe.run.engine,
        savings=run.recipe.savings,
    )
    train_state.progress = Progress(records=len(ready.prepared.samples))
    _go_on(run, found, train_state)
    _follow(
        run, train_state, watched(_steps(run, ready, train_state), _followers(run, train_state))
    )
    return train_state


def _go_on(run: StageRun, found: Found, train_state: TrainState) -> None:
    """Restore the state that was found, and print it."""
    run.metrics.parent.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    records = train_state.progress.records
    run.states.restore(found, train_state, run.metrics)
    if train_state.progress.records not in (0, records):
        raise LaternaError(
            f"{run.states.folder}: the run learned from "
            f"{train_state.progress.records:,} records when it was interrupted, and now "
            f"{records:,} can be used, for images came or went since: it cannot "
            "go on in the same order; remove that folder to start anew"
        )
    for remark in found.remarks:
        run.console.print(remark, soft_wrap=True, markup=False)
    if found.step:
        seconds = time.perf_counter() - began
        where = f"step {found.step:,} of {train_state.total:,}"
        run.console.print(f"going on after {where} ({seconds:.1f} s)")


def _steps(run: StageRun, ready: Setup, train_state: TrainState) -> Iterator[StepFigures]:
    """Yield the figures of each step that is left."""
    batches = feed(
        ready.prepared.samples,
        run.settings,
        seed=run.recipe.seed,
        fill=ready.fill,
        first_step=train_state.progress.step,
        workers=run.recipe.run.workers,
        ranks=run.ranks,
        even=is_sharded(train_state.model),
    )
    validator = Validator(
        train_state,
        ready.prepared.validation,
        ready.fill,
        every=run.recipe.run.eval_steps,
        workers=run.recipe.run.workers,
    )
    return train_steps(
        train_state,
        batches,
        run.recipe.run,
        seed=run.recipe.seed,
        meter=ready.meter,
        validate=validator.after,
    )


def _followers(run: StageRun, train_state: TrainState) -> Iterator[Callable[[], Tracker]]:
    """Yield what opens the trackers: first the metrics file, which a saved state copies."""
    if not run.ranks.first:
        return
    tracked = TrackedRun(run.recipe, run.stage, run.out, run.digest, train_state.progress.step)
    yield partial(MetricsFile, run.metrics)
    title = f"stage {run.stage}"
    yield partial(StageBar, title, run.console, done=tracked.done, total=train_state.total)
    for name in run.recipe.run.report_to:
        yield partial(TRACKERS[name], tracked)


def _follow(run: StageRun, train_state: TrainState, steps: Iterable[StepFigures]) -> None:
    """Train to the end, saving a state when one is due; when asked to stop, save and leave."""
    settings, saved = run.recipe.run, time.monotonic()
    with stop_requests() as request:
        for figures in steps:
            minutes = (time.monotonic() - saved) / 60
            due = 0 < settings.save_minutes <= minutes
            due |= settings.save_steps > 0 and figures.step % settings.save_steps == 0
            stops, saves = run.ranks.total([request.signal > 0, due])
            if (stops or saves) and train_state.progress.step < train_state.total:
                train_state.require_sound()  # else it would replace a good state
                run.states.save(train_state, run.metrics)
                saved = time.monotonic()
                if stops:
                    request.leave()


def _finish(run: StageRun, train_state: TrainState) -> None:
    """Save the checkpoint on rank 0, in the same form whatever the engine."""
    assistant = train_state.objective.assistant
    if is_sharded(train_state.model):
        assistant = _gathered(run, train_state)
    if not run.ranks.first:
        return
    steps, progress = read_metrics(run.metrics), train_state.progress
    figures = _sum_up(steps, progress) | _weights(run, assistant)
    run.console.print(f"stage {run.stage}: {summary(steps)}", soft_wrap=True, markup=False)
    if skips := skipped_so_far(progress.skipped, progress.empty):
        run.console.print(f"stage {run.stage}: {skips}", soft_wrap=True, markup=False)
    assistant.eval()
    save_checkpoint(
        run.out,
        assistant,
        run.recipe,
        stage=run.stage,
        figures=figures,
        metrics=run.metrics,
        run=run.digest,
        overwrite=True,
        known=run.known,
    )


def _gathered(run: StageRun, train_state: TrainState) -> VisionLanguageModel:
    """Return an assistant with the weights that all ranks hold shares of; rank 0's is whole."""
    if run.ranks.first:
        whole = begin(run.recipe, run.init_from)
        apply_stage(whole, run.recipe, run.stage)
        targets = dict(whole.named_parameters())
    for name, share in train_state.weights.items():
        weight = whole_tensor(share)
        if run.ranks.first:
            targets[name].data.copy_(weight)
    return whole if run.ranks.first else train_state.objective.assistant


def _weights(run: StageRun, assistant: VisionLanguageModel) -> dict[str, float]:
    """Return how many weights of each part trained, and how many did not."""
    parts = summarize(assistant, run.settings).parts
    trained = {f"{part.part}_trained": float(part.trained) for part in parts}
    return trained | {f"{part.part}_frozen": float(part.frozen) for part in parts}


def _sum_up(figures: list[StepFigures], progress: Progress) -> dict[str, float]:
    if not figures:
        why = skipped_so_far(progress.skipped, progress.empty)
        raise LaternaError(f"no step changed anything, and no checkpoint was made: {why}")
    last = figures[-max(1, round(len(figures) * LAST_SHARE)) :]
    return {
        "steps": len(figures),
        "loss_first": figures[0].loss,
        "loss_last": sum(step.loss for step in last) / len(last),
        "target_tokens": sum(step.target_tokens for step in figures),
        "seconds": sum(step.seconds for step in figures),
    }
