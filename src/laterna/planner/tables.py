"""A plan as tables for people."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from laterna.planner.assumptions import FORMATS
from laterna.planner.hardware import GPUS
from laterna.planner.plan import Memory, Plan, StagePlan
from laterna.training.checks import PARTS

_UNITS = ("", "K", "M", "G", "T", "P", "E", "Z")
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB")


def plan_tables(plan: Plan) -> Iterator[Table]:
    """Yield the tables of a plan: three a stage, and one of resolutions."""
    for stage in plan.stages:
        yield _work_table(stage)
        yield _memory_table(plan, stage)
        yield _gpu_table(plan, stage)
    yield _resolution_table(plan)


def _work_table(stage: StagePlan) -> Table:
    """Show what a stage trains and computes, by part."""
    caption = (
        f"a record: {stage.images.typical.tokens:,} image + {stage.lengths.text:,} text "
        f"tokens, {stage.lengths.targets:,} of them learned: {scaled(stage.flops)}FLOPs, "
        f"{stage.attention_flops / stage.flops:.1%} of them quadratic · a step: "
        f"{stage.global_batch_size:,} records, {scaled(stage.flops_step)}FLOPs"
    )
    if stage.images.known_by:
        typical, largest = stage.images.typical, stage.images.largest
        caption += (
            f" · an image: {typical.tiles:.3g} tiles by mean, {largest.tiles:.0f} with "
            f"{largest.beside or largest.tokens:,} tokens at most, by {stage.images.known_by}"
        )
    table = _table(f"stage {stage.stage}", caption)
    for heading in ("part", "mode"):
        table.add_column(heading)
    for heading in ("weights", "trained", "forward", "backward"):
        table.add_column(heading, justify="right")
    for part in stage.parts:
        table.add_row(
            part.part,
            part.mode,
            f"{part.weights:,}",
            f"{part.trained:,}" if part.trained else "–",
            scaled(part.forward_flops) + "FLOPs" if part.forward_flops else "–",
            scaled(part.backward_flops) + "FLOPs" if part.backward_flops else "–",
        )
    return table


def _memory_table(plan: Plan, stage: StagePlan) -> Table:
    """Show the memory of a step on one GPU, with layers kept and with layers checkpointed."""
    load, given = stage.load, plan.assumptions
    share = f"one of {given.gpus} GPUs under {plan.engine}" if given.gpus > 1 else "one GPU"
    tokens = load.text + load.images * stage.images.largest.tokens
    passes = counted(stage.micro_batches, "micro-batch", "es")
    caption = (
        f"{plan.precision}, {share}, a step: {passes} of {load.rows} × {tokens:,} tokens with "
        f"{load.rows * load.images} images; {sized(stage.images_ahead)} of images wait in "
        "the host's memory"
    )
    if stage.feature_cache is not None:
        caption += f"; features on disk: {sized(stage.feature_cache)}"
    table = _table(f"memory, stage {stage.stage}", caption)
    table.add_column("")
    for heading, trains in (
        ("layers kept", not stage.checkpointed),
        ("layers checkpointed", stage.checkpointed),
    ):
        table.add_column(heading + (", as it trains" if trains else ""), justify="right")
    columns = (stage.memory_kept, stage.memory_checkpointed)
    for name in ("weights", "gradients", "optimizer", "activations"):
        table.add_row(name, *(sized(getattr(memory, name)) for memory in columns))
    for part in PARTS:
        table.add_row(f"  kept by {part}", *(sized(memory.kept[part]) for memory in columns))
    table.add_row("  temporary", *(sized(_temporary(memory)) for memory in columns))
    table.add_section()
    table.add_row("in all", *(sized(memory.total) for memory in columns))
    return table


def _gpu_table(plan: Plan, stage: StagePlan) -> Table:
    """Show where a stage fits, how long it takes and what that costs."""
    given, dtype = plan.assumptions, FORMATS[plan.precision].dtype
    caption = (
        f"{given.headroom:.0%} of the memory left free; hours on {counted(given.gpus, 'GPU')} at "
        f"{given.mfu:.0%} of the {dtype} peak (assumed, --mfu)"
    )
    if stage.records is None:
        caption += "; hours need --records"
    elif given.price is None:
        caption += "; money needs --price"
    size = "" if stage.records is None else f", {stage.records:,} records, {stage.steps:,} steps"
    table = _table(f"GPUs, stage {stage.stage}{size}", caption)
    table.add_column("GPU")
    for heading in ("memory", "peak TFLOPS", "fits", "fits checkpointed", "hours", "money"):
        table.add_column(heading, justify="right")
    for row in stage.gpus:
        gpu = GPUS[row.gpu]
        table.add_row(
            row.gpu,
            f"{gpu.memory_gib:g} GiB",
            f"{gpu.peak(dtype):g}",
            _yes(row.fits),
            _yes(row.fits_checkpointed),
            "–" if row.hours is None else f"{row.hours:,.3g}",
            "–" if row.money is None else f"{row.money:,.2f}",
        )
    return table


def _resolution_table(plan: Plan) -> Table:
    """Show tokens, cache and attention of larger images, and how many times the smallest's."""
    total = plan.answering_weights + plan.answering_cache + plan.answering_beside
    caption = (
        f"the recipe's images: {plan.image_side} px, {_image_tokens(plan)} · "
        f"answering in a chat of {plan.answering_tokens:,} tokens: {sized(total)}, "
        f"{sized(plan.answering_cache)} of it KV cache"
    )
    if plan.answering_beside:
        caption += f", {sized(plan.answering_beside)} for an image in cross-attention"
    table = _table("an image in the language model, by its size", caption)
    headings = ("side", "patches", "tokens", "KV cache", "×", "attention FLOPs", "×")
    for heading in headings:
        table.add_column(heading, justify="right")
    for row in plan.resolutions:
        first = plan.resolutions[0]
        attention = row.attention_flops / max(1, first.attention_flops)
        table.add_row(
            f"{row.side} px",
            f"{row.patches:,}",
            f"{row.tokens:,}",
            sized(row.cache),
            f"{row.cache / max(1, first.cache):.1f}",
            scaled(row.attention_flops),
            f"{attention:,.1f}",
        )
    return table


def scaled(number: float) -> str:
    """Return a number with three digits and a decimal prefix: 3.83e12 is `3.83 T`."""
    power = 0
    while abs(number) >= 999.5 and power < len(_UNITS) - 1:
        number /= 1000
        power += 1
    return f"{number:.3g} {_UNITS[power]}"


def counted(number: int, what: str, plural: str = "s") -> str:
    """Return a number of things: `1 GPU`, `8 GPUs`."""
    return f"{number:,} {what}{'' if number == 1 else plural}"


def sized(count: float) -> str:
    """Return bytes with three digits and a binary unit: 2**31 is `2 GiB`."""
    power = 0
    while abs(count) >= 999.5 and power < len(_BINARY) - 1:
        count /= 1024
        power += 1
    return f"{count:.3g} {_BINARY[power]}"


def _image_tokens(plan: Plan) -> str:
    if plan.tiles == 1:
        return f"{counted(plan.image_tokens, 'token')} of a row"
    fewest, most = plan.fewest_image_tokens, plan.image_tokens
    span = f"{fewest:,} to {most:,} tokens" if fewest < most else counted(most, "token")
    return f"{span} in up to {plan.tiles} tiles"


def _temporary(memory: Memory) -> int:
    return max(0, memory.activations - sum(memory.kept.values()))


def _yes(fits: bool) -> str:
    return "yes" if fits else "no"


def _table(title: str, caption: str) -> Table:
    return Table(title=title, caption=caption, title_justify="left", caption_justify="left")
