"""One training stage from recipe to checkpoint; reads as the recipe does."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import rich
import torch
from rich.console import Console

from laterna.data.fingerprints import Fingerprints
from laterna.data.preparation import FINGERPRINTS, Prepared
from laterna.errors import LaternaError
from laterna.files import Made, insist_replaceable, sweep
from laterna.model import checkpoint as checkpoints
from laterna.model.attention.shared_prefix import FLEX, insist_on_packing
from laterna.model.attention.varlen import attend_by_segments
from laterna.model.build import fast_dtype, slow_half_line
from laterna.model.checkpoint import MANIFEST, save_checkpoint
from laterna.model.language.causal import positions_of
from laterna.model.vision.feature_cache import cached_features
from laterna.model.vlm import VisionLanguageModel
from laterna.progress import shown_progress
from laterna.recipe import Recipe, RunSettings, StageName, StageSettings, checked
from laterna.training.distributed import Ranks, joined_ranks
from laterna.training.feed import FAULTS, Fill, count_steps, feed, fill_features, fill_pixels
from laterna.training.figures import StepFigures
from laterna.training.held_out import Looks
from laterna.training.identity import run_digest
from laterna.training.learner import Learner, Progress
from laterna.training.loop import insist_few_faulty, train_steps
from laterna.training.meter import Meter, set_up_meter
from laterna.training.place import held_by_one, insist_not_anothers
from laterna.training.ready import prepare_stage
from laterna.training.resume import Found, States
from laterna.training.sensible import insist_sensible, insist_there
from laterna.training.sharding import is_sharded, whole_tensor
from laterna.training.signals import stop_requests
from laterna.training.stages import FROZEN, apply_stage, stage_table, summarise
from laterna.training.start import begin, fit_connector, insist_start
from laterna.training.telemetry import (
    MetricsFile,
    StageBar,
    read_metrics,
    skipped_so_far,
    summary,
    watched,
)
from laterna.training.tracking import TRACKERS
from laterna.training.tracking.base import TrackedRun, Tracker

FITTING_STEPS = 4
"""Steps whose pictures a connector is fitted to, where the recipe wants that."""
LAST_SHARE = 0.05
"""Share of the steps over which the last loss is averaged."""


def train(
    recipe: Recipe,
    *,
    stage: StageName,
    out: Path,
    start: Path | None = None,
    overwrite: bool = False,
) -> Path:
    """Train one stage and save the assistant as checkpoint `out`; return `out`.

    `start` is what to go on from: a checkpoint (stage 1's, for stage 2), or a file of a connector's
    weights; without it the stage begins from the recipe's sources and a fresh connector. A stage
    that was interrupted goes on at its newest saved state, in `<out>.state`; one that is done is
    not done again; the finished checkpoint of another run is replaced with `overwrite` alone. While
    it trains, no other run may write there, and its figures by step are in `<out>.metrics.jsonl`;
    the checkpoint then holds them.

    Raises LaternaError for anything in recipe, data or checkpoint that stops the run, and
    SystemExit (143) or KeyboardInterrupt when a signal does, after the state was saved.
    """
    recipe = checked(recipe)
    insist_sensible(recipe, [stage])
    insist_start(recipe, start)
    insist_there(recipe.stage(stage))
    if recipe.threads > 0:
        torch.set_num_threads(recipe.threads)
    insist_replaceable(out, Made(kind=checkpoints.KIND, later=(checkpoints.PAGE,)))
    with joined_ranks() as ranks, held_by_one(out, stage, ranks):
        console = rich.get_console() if ranks.first else Console(quiet=True)
        with ranks.first_alone():  # what it reads it remembers, and the others need not
            sweep(Path(recipe.prepared) / FINGERPRINTS)
            known = Fingerprints(Path(recipe.prepared) / FINGERPRINTS)
            digest = run_digest(recipe, stage, start, known)
        states = States(out.with_name(f"{out.name}.state"), digest, ranks, keep=recipe.run.keep)
        metrics = _metrics_of(out)
        if _is_done(out, digest):
            console.print(f"{out}: this very run was done before; remove it to train anew")
        else:
            if not overwrite:
                insist_not_anothers(out, recipe, stage)
            learner = _train(recipe, stage, start, known, states, out, console)
            _finish(out, learner, recipe, stage, start, metrics, digest, known, console)
        ranks.wait()  # no rank may still ask whether it is done
        if ranks.first:  # also what a run leaves that was killed once its checkpoint was there
            metrics.unlink(missing_ok=True)
            states.clear()
        ranks.wait()
    return out


def _train(
    recipe: Recipe,
    stage: StageName,
    start: Path | None,
    known: Fingerprints,
    states: States,
    out: Path,
    console: Console,
) -> Learner:
    settings, ranks, metrics = recipe.stage(stage), states.ranks, _metrics_of(out)
    found = states.find()
    ready = _make_ready(recipe, stage, start, known, ranks, console, goes_on=found.step > 0)
    total = count_steps(len(ready.prepared.samples), settings)
    learner = Learner(
        ready.assistant,
        settings,
        total=total,
        ranks=ranks,
        engine=recipe.run.engine,
        savings=recipe.savings,
    )
    learner.progress = Progress(records=len(ready.prepared.samples))
    _go_on(states, found, learner, metrics, console)
    batches = feed(
        ready.prepared.samples,
        settings,
        seed=recipe.seed,
        fill=ready.fill,
        first_step=learner.progress.step,
        workers=recipe.run.workers,
        ranks=ranks,
        even=is_sharded(learner.model),
    )
    run_settings = recipe.run
    looks = Looks(
        learner,
        ready.prepared.held_out,
        ready.fill,
        every=run_settings.held_out_steps,
        workers=run_settings.workers,
    )
    steps = train_steps(
        learner, batches, run_settings, seed=recipe.seed, meter=ready.meter, look=looks.after
    )
    run = TrackedRun(recipe, stage, out, states.run, learner.progress.step)
    followers = _followers(run, total, metrics, console) if ranks.first else []
    _follow(watched(steps, followers), learner, states, metrics, run_settings)
    return learner


class Ready(NamedTuple):
    """What a stage trains, on what, before anything has learned."""

    assistant: VisionLanguageModel
    """With the stage applied to it."""
    prepared: Prepared
    fill: Fill
    meter: Meter


def _make_ready(
    recipe: Recipe,
    stage: StageName,
    start: Path | None,
    known: Fingerprints,
    ranks: Ranks,
    console: Console,
    *,
    goes_on: bool,
) -> Ready:
    settings = recipe.stage(stage)
    assistant = begin(recipe, start, known).to(ranks.device)
    set_attention(assistant, recipe.run, settings)
    with ranks.first_alone():
        prepared = prepare_stage(
            assistant.tokenizer,
            assistant.picture_tokens,
            recipe,
            stage,
            console,
            known=known,
            positions=positions_of(assistant.language.config),
        )
    which = [prepared.examples[reason] for reason in FAULTS if reason in prepared.examples]
    insist_few_faulty(prepared.dropped, recipe.run, f"stage {stage}", which)
    with ranks.first_alone():
        fill = _pictures(assistant, recipe, settings, prepared, console)
    if recipe.connector.calibrate and start is None and not goes_on:
        first = feed(prepared.samples, settings, seed=recipe.seed, fill=fill)
        seen = (batch for step in islice(first, FITTING_STEPS) for batch in step.batches)
        fit_connector(assistant, seen)
    console.print(stage_table(stage, apply_stage(assistant, recipe, stage)))
    asks = [name for name in ("bf16", "muon") if name in (*recipe.savings, settings.optimiser)]
    if line := slow_half_line(assistant.device, *asks):
        console.print(line, soft_wrap=True)
    # Before the savings: compiled layers are not for counting, nor those that compute again.
    in_half = "bf16" in recipe.savings and fast_dtype(ranks.device) is torch.bfloat16
    meter = set_up_meter(assistant, ranks, in_half=in_half)
    console.print(meter.line(), soft_wrap=True)
    return Ready(assistant, prepared, fill, meter)


def _followers(
    run: TrackedRun, total: int, metrics: Path, console: Console
) -> Iterator[Callable[[], Tracker]]:
    """Yield what opens all that is told of every step: first the file that a state keeps."""
    yield partial(MetricsFile, metrics)
    yield partial(StageBar, f"stage {run.stage}", console, done=run.done, total=total)
    for name in run.recipe.run.trackers:
        yield partial(TRACKERS[name], run)


def _metrics_of(out: Path) -> Path:
    return out.with_name(f"{out.name}.metrics.jsonl")


def set_attention(
    assistant: VisionLanguageModel, run: RunSettings, settings: StageSettings
) -> None:
    """Choose the language model's attention, and see that it keeps the samples of a row apart."""
    if run.attention == "flex":
        if assistant.device.type == "cpu":
            raise LaternaError(
                "run.attention = 'flex': torch's flex attention cannot train on a CPU; use 'sdpa'"
            )
        assistant.language.set_attn_implementation(FLEX)
    if run.attention == "segments":
        attend_by_segments(assistant.language)
    if settings.share_pictures and not assistant.plain_head:
        raise LaternaError(
            "share_pictures: this language model changes its logits after the head, which shared "
            "rows do not allow for; set share_pictures = false"
        )
    if settings.row_tokens or settings.share_pictures or run.attention == "segments":
        insist_on_packing(assistant.language, share_pictures=settings.share_pictures)


def _is_done(out: Path, digest: str) -> bool:
    """Say whether a run's checkpoint is there. Raises LaternaError for one that is damaged."""
    if not (out / MANIFEST).is_file():
        return False
    manifest = checkpoints.read_manifest(out)
    done = manifest.run == digest
    if done:
        checkpoints.insist_whole(out, manifest)
    return done


def _go_on(states: States, found: Found, learner: Learner, metrics: Path, console: Console) -> None:
    metrics.parent.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    records = learner.progress.records
    states.restore(found, learner, metrics)
    if learner.progress.records not in (0, records):
        raise LaternaError(
            f"{states.folder}: the run learned from {learner.progress.records:,} records when it "
            f"was interrupted, and now {records:,} can be used, for pictures came or went since: "
            "it cannot go on in the same order; remove that folder to start anew"
        )
    for remark in found.remarks:
        console.print(remark, soft_wrap=True)
    if found.step:
        seconds = time.perf_counter() - began
        console.print(f"going on after step {found.step:,} of {learner.total:,} ({seconds:.1f} s)")


def _follow(
    steps: Iterable[StepFigures],
    learner: Learner,
    states: States,
    metrics: Path,
    settings: RunSettings,
) -> None:
    """Train to the end, saving a state when one is due; when asked to stop, save and leave."""
    ranks = learner.ranks
    saved = time.monotonic()
    with stop_requests() as request:
        for figures in steps:
            minutes = (time.monotonic() - saved) / 60
            due = 0 < settings.save_minutes <= minutes
            due |= settings.save_steps > 0 and figures.step % settings.save_steps == 0
            stops, saves = ranks.total([request.signal > 0, due])
            if (stops or saves) and learner.progress.step < learner.total:
                learner.insist_finite()  # else the good states before would make room for it
                states.save(learner, metrics)
                saved = time.monotonic()
                if stops:
                    request.leave()


def _finish(
    out: Path,
    learner: Learner,
    recipe: Recipe,
    stage: StageName,
    start: Path | None,
    metrics: Path,
    digest: str,
    known: Fingerprints,
    console: Console,
) -> None:
    """Save the checkpoint on rank 0, in the same form whatever the engine."""
    assistant = learner.objective.assistant
    if is_sharded(learner.model):
        assistant = _gathered(learner, recipe, stage, start)
    if learner.ranks.first:
        steps = read_metrics(metrics)
        figures = _sum_up(steps, learner.progress) | _weights(assistant, recipe.stage(stage))
        console.print(f"stage {stage}: {summary(steps)}", soft_wrap=True)
        skips = skipped_so_far(learner.progress.skipped, learner.progress.empty)
        if skips:
            console.print(f"stage {stage}: {skips}", soft_wrap=True)
        assistant.eval()
        save_checkpoint(
            out,
            assistant,
            recipe,
            stage=stage,
            figures=figures,
            metrics=metrics,
            run=digest,
            overwrite=True,
            known=known,
        )


def _weights(assistant: VisionLanguageModel, settings: StageSettings) -> dict[str, float]:
    """Return how many weights of each part trained, and how many did not."""
    parts = summarise(assistant, settings).parts
    trained = {f"{part.part}_trained": float(part.trained) for part in parts}
    return trained | {f"{part.part}_frozen": float(part.frozen) for part in parts}


def _gathered(
    learner: Learner, recipe: Recipe, stage: StageName, start: Path | None
) -> VisionLanguageModel:
    """Return an assistant with the weights that all ranks hold shares of; rank 0's is whole."""
    if learner.ranks.first:
        whole = begin(recipe, start)
        apply_stage(whole, recipe, stage)
        targets = dict(whole.named_parameters())
    for name, share in learner.weights.items():
        weight = whole_tensor(share)
        if learner.ranks.first:
            targets[name].data.copy_(weight)
    return whole if learner.ranks.first else learner.objective.assistant


def _pictures(
    assistant: VisionLanguageModel,
    recipe: Recipe,
    settings: StageSettings,
    prepared: Prepared,
    console: Console,
) -> Fill:
    if not recipe.feature_cache or settings.vision.mode != FROZEN:
        return fill_pixels(assistant.prepare, prepared.pictures)
    seen = (prepared.samples, prepared.held_out)
    names = list(dict.fromkeys(name for samples in seen for name in samples.picture_names()))
    with shown_progress("vision features", total=len(names), console=console) as shown:
        store = cached_features(
            assistant.vision,
            assistant.prepare,
            names,
            prepared.pictures,
            Path(recipe.feature_cache),
            lambda done, _total: shown.update(done),
            max_gb=recipe.run.max_feature_gb,
            announce=lambda said: console.print(said, soft_wrap=True, markup=False),
        )
        shown.update(len(names))
    return fill_features(store)


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
