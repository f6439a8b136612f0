"""One training stage from recipe to checkpoint; reads as the recipe does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import rich
import torch
from rich.console import Console

from laterna.data.chat import load_template
from laterna.data.preparation import Prepared, prepare
from laterna.errors import LaternaError
from laterna.model.assistant import Assistant, load_assistant_from
from laterna.model.checkpoint import load_checkpoint, read_manifest, save_checkpoint
from laterna.model.features import cached_features
from laterna.recipe import Recipe, StageName, StageSettings
from laterna.training.feed import Fill, count_steps, feed, fill_features, fill_pixels
from laterna.training.loop import StepFigures, train_steps
from laterna.training.stages import TRAINS, apply_stage, stage_table
from laterna.training.telemetry import progress_bar, watched

LAST_SHARE = 0.05
"""Share of the steps over which the last loss is averaged."""


def train(recipe: Recipe, *, stage: StageName, out: Path, start: Path | None = None) -> Path:
    """Train one stage and save the assistant as checkpoint `out`; return `out`.

    `start` is the checkpoint to go on from (stage 1's, for stage 2); without it the stage begins
    from the recipe's sources and a fresh connector. While it trains, its figures by step are in
    `<out>.metrics.jsonl`; the checkpoint then holds them as `metrics.jsonl`.
    Raises LaternaError for anything in recipe, data or checkpoint that stops the run.
    """
    console = rich.get_console()
    settings = recipe.stage(stage)
    _insist_served_as_taught(recipe, stage)
    if recipe.threads > 0:
        torch.set_num_threads(recipe.threads)
    assistant = _begin(recipe, start).to(_device())
    prepared = _prepare(assistant, recipe, settings, console)
    fill = _pictures(assistant, recipe, settings, prepared, console)
    console.print(stage_table(stage, apply_stage(assistant, settings)))
    total = count_steps(len(prepared.samples), settings)
    batches = feed(
        prepared.samples,
        settings,
        seed=recipe.seed,
        fill=fill,
        workers=recipe.workers,
    )
    metrics = out.with_name(f"{out.name}.metrics.jsonl")
    steps = train_steps(assistant, settings, batches, total=total)
    figures = list(
        watched(steps, title=f"stage {stage}", total=total, metrics=metrics, console=console)
    )
    assistant.eval()
    save_checkpoint(out, assistant, recipe, stage=stage, figures=_sum_up(figures), metrics=metrics)
    metrics.unlink()
    return out


def _begin(recipe: Recipe, start: Path | None) -> Assistant:
    if start is None:
        return load_assistant_from(recipe)
    before = read_manifest(start).recipe
    for name in ("vision", "connector", "language"):
        if getattr(before, name) != getattr(recipe, name):
            raise LaternaError(
                f"{start}: was trained with other [{name}] settings than recipe {recipe.name}; "
                "give both stages the same"
            )
    return load_checkpoint(start)


def _insist_served_as_taught(recipe: Recipe, stage: StageName) -> None:
    taught, served = recipe.stage(stage).template, recipe.language.template
    if stage == "instruct" and taught != served:
        raise LaternaError(
            f"instruct.template = {taught!r} but language.template = {served!r}: the assistant "
            "would be served with another template than it was taught; make them equal"
        )


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _prepare(
    assistant: Assistant, recipe: Recipe, settings: StageSettings, console: Console
) -> Prepared:
    with progress_bar(console) as bar:
        task = bar.add_task("records", total=None, figures="")
        prepared = prepare(
            settings.mixture(),
            assistant.tokenizer,
            template=load_template(settings.template, assistant.tokenizer),
            picture_tokens=assistant.picture_tokens,
            max_tokens=settings.max_tokens,
            folder=Path(recipe.prepared),
            seed=recipe.seed,
            progress=lambda name, rows: bar.update(task, completed=rows, figures=name),
        )
        bar.remove_task(task)
    names = ", ".join(source.data for source in settings.mixture())
    console.print(f"{names}: {len(prepared.samples):,} records prepared", soft_wrap=True)
    for reason, number in prepared.dropped.items():
        console.print(f"  dropped {number:,}: {reason}", soft_wrap=True)
    return prepared


def _pictures(
    assistant: Assistant,
    recipe: Recipe,
    settings: StageSettings,
    prepared: Prepared,
    console: Console,
) -> Fill:
    if not recipe.feature_cache or TRAINS[settings.vision.mode]:
        return fill_pixels(assistant.prepare, prepared.pictures)
    names = prepared.samples.picture_names()
    with progress_bar(console) as bar:
        task = bar.add_task("vision features", total=len(names), figures="")
        store = cached_features(
            assistant.vision,
            assistant.prepare,
            names,
            prepared.pictures,
            Path(recipe.feature_cache),
            lambda done, total: bar.update(task, completed=done, total=total),
        )
        bar.update(task, completed=len(names), total=len(names))
    return fill_features(store)


def _sum_up(figures: Sequence[StepFigures]) -> dict[str, float]:
    last = figures[-max(1, round(len(figures) * LAST_SHARE)) :]
    return {
        "steps": len(figures),
        "loss_first": figures[0].loss,
        "loss_last": sum(step.loss for step in last) / len(last),
        "target_tokens": sum(step.target_tokens for step in figures),
        "seconds": sum(step.seconds for step in figures),
    }
