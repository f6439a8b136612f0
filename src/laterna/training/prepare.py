"""A stage's records made ready: prepared by the recipe's tokenizer, and planned into rows."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.table import Table

from laterna.data.chat import load_template
from laterna.data.fingerprints import Fingerprints
from laterna.data.images.tokens import ImageCounter
from laterna.data.packing import fit_batches, fit_rows
from laterna.data.preparation import Prepared, prepare
from laterna.data.preparation.sharing import SharedImages, shared_images
from laterna.data.remarks import remarks
from laterna.errors import LaternaError
from laterna.progress import shown_progress
from laterna.recipe import Recipe, StageName, StageSettings
from laterna.records import Record
from laterna.training.dataloader import Order, count_steps, step_packs

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Plan(Record, frozen=True):
    """What a stage makes of its records."""

    steps: int
    records: int
    """Drawn over all epochs."""
    rows: int
    batches: int
    """Forward passes."""
    tokens: int
    computed: int
    """Tokens with the padding to the longest row of each forward pass."""


def prepare_stage(
    tokenizer: PreTrainedTokenizerBase,
    image_tokens: ImageCounter,
    recipe: Recipe,
    stage: StageName,
    console: Console,
    *,
    workers: int = 0,
    known: Fingerprints | None = None,
    positions: int | None = None,
) -> Prepared:
    """Prepare a stage's records, or find them prepared, and print what was dropped and why, and
    what under `shared_prefix` cannot share an image.

    `tokenizer` is that of the recipe's language model, and `image_tokens` counts the tokens of an
    image of a width and height: no weights are needed. `known` and `positions` are as in `prepare`.
    Raises LaternaError as that does.
    """
    settings = recipe.stage(stage)
    template = _template(tokenizer, recipe, stage, console)
    begun = time.perf_counter()
    with shown_progress("records", console=console) as shown:
        prepared = prepare(
            settings.mixture(),
            tokenizer,
            template=template,
            image_tokens=image_tokens,
            max_tokens=settings.max_tokens,
            positions=positions,
            folder=Path(recipe.prepared),
            seed=recipe.seed,
            validation=settings.validation,
            loss_on=settings.loss_on,
            workers=workers,
            known=known,
            progress=lambda name, rows: shown.update(rows, name),
        )
    _say_what_was_prepared(prepared, settings, time.perf_counter() - begun, console)
    _require_rows_hold(int(prepared.lengths.min()), settings.pack_length, stage)
    if settings.shared_prefix:
        _say_what_is_shared(shared_images(prepared.samples), console)
    return prepared


def _say_what_was_prepared(
    prepared: Prepared, settings: StageSettings, seconds: float, console: Console
) -> None:
    names = ", ".join(source.data for source in settings.mixture())
    said = f"{names}: {len(prepared.samples):,} records prepared in {seconds:.1f} s"
    if len(prepared.validation):
        said += f", {len(prepared.validation):,} more for validation"
    console.print(said, soft_wrap=True, markup=False)
    for remark in prepared.remarks:
        console.print(f"  {remark}", soft_wrap=True, markup=False)
    for reason, number in prepared.dropped.items():
        example = prepared.examples[reason]
        console.print(f"  dropped {number:,}: {reason} ({example})", soft_wrap=True, markup=False)


def _require_rows_hold(shortest: int, pack_length: int, stage: StageName) -> None:
    if 0 < pack_length < shortest:
        raise LaternaError(
            f"{stage}.pack_length = {pack_length}: shorter than any record, the shortest of which "
            f"has {shortest} tokens; give more, or 0 for one record a row"
        )


def _template(
    tokenizer: PreTrainedTokenizerBase, recipe: Recipe, stage: StageName, console: Console
) -> str:
    """Return the stage's chat template, and print what may surprise in it."""
    name = recipe.stage(stage).template
    template = load_template(name, tokenizer, recipe.image_position)
    for remark in remarks(tokenizer, template):
        console.print(f"chat template {name}: {remark}", soft_wrap=True, markup=False)
    return template


def _say_what_is_shared(found: SharedImages, console: Console) -> None:
    behind = f"{found.records:,} records can share {found.groups:,} images"
    console.print(
        f"  {behind}, where they fall into one step and row", soft_wrap=True, markup=False
    )
    for reason, number in found.reasons.items():
        said = f"  not shared {number:,}: {reason} (record {found.examples[reason]})"
        console.print(said, soft_wrap=True, markup=False)


def plan_stage(prepared: Prepared, settings: StageSettings, *, seed: int) -> Plan:
    """Plan every step of a stage as training will: from the lengths alone, or, where images are
    shared, from the samples.
    """
    lengths = prepared.lengths
    steps = count_steps(len(lengths), settings)
    records = rows = batches = tokens = computed = 0
    order = Order(prepared.samples, settings, seed)
    for step in range(steps):
        numbers = order.of_step(step)
        if settings.shared_prefix:
            chosen = [prepared.samples[number] for number in numbers]
            packed = [pack.length for pack in step_packs(chosen, settings)]
        else:
            own = lengths[numbers].tolist()
            together = fit_rows(own, settings.pack_length)
            packed = [sum(own[place] for place in row) for row in together]
        passes = fit_batches(packed, settings.micro_batch_tokens)
        records += len(numbers)
        rows += len(packed)
        batches += len(passes)
        tokens += sum(packed)
        computed += sum(len(one) * max(packed[place] for place in one) for one in passes)
    return Plan(
        steps=steps, records=records, rows=rows, batches=batches, tokens=tokens, computed=computed
    )


def plan_table(stage: StageName, prepared: Prepared, plan: Plan) -> Table:
    """Return what a stage's records hold and how they are planned, for people."""
    lengths = prepared.lengths
    table = Table("", "number", title=f"stage {stage}", title_justify="left")
    table.columns[1].justify = "right"
    middle, most = np.percentile(lengths, [50, 99])
    padding = 1 - plan.tokens / plan.computed
    for name, value in (
        ("records of an epoch", f"{len(lengths):,}"),
        ("tokens, images expanded", f"{int(lengths.sum()):,}"),
        ("of them learned", f"{int(prepared.learned.sum()):,}"),
        (
            "tokens of a record: half, 99 %, all at most",
            f"{middle:,.0f}, {most:,.0f}, {lengths.max():,}",
        ),
        ("steps", f"{plan.steps:,}"),
        ("records, over all epochs", f"{plan.records:,}"),
        ("rows", f"{plan.rows:,}"),
        ("forward passes", f"{plan.batches:,}"),
        ("tokens that are padding", f"{padding:.1%}"),
    ):
        table.add_row(name, value)
    return table
