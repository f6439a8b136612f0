"""What a training run left in its folder, as the page shows it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import get_args

import msgspec

from laterna.errors import LaternaError
from laterna.evaluation.saved import FIGURES
from laterna.model.checkpoint import MANIFEST, Manifest, read_manifest, require_whole
from laterna.recipe import PartName, StageName
from laterna.records import Record
from laterna.report.overlays import find_explanations
from laterna.report.page import (
    EvaluationShown,
    ReportContent,
    StageShown,
    curve_of,
    duration,
)
from laterna.report.parts import NamedTexts, share
from laterna.training.resume import METRICS
from laterna.training.telemetry import read_metrics
from laterna.training.throughput import StepFigures, speeds

SMALL = 1_000_000
"""Bytes up to which a JSON file beside the stages may be an evaluation's figures."""


class Trained(Record):
    """A stage that was trained, or is being."""

    name: str
    steps: tuple[StepFigures, ...]
    folder: Path | None = None
    """Its checkpoint; None while it is not finished."""
    manifest: Manifest | None = None


class Shares(msgspec.Struct, frozen=True, kw_only=True):
    """The accuracies of an evaluation or of a control; None where no answer had a score."""

    overall: float | None
    kinds: dict[str, float | None]


class Found(Shares, frozen=True, kw_only=True):
    """The figures of an evaluation, whatever else the file holds: a demo's holds more."""

    controls: dict[str, Shares]
    questions: int
    skipped: dict[str, int] = {}


def run_content(run: Path) -> ReportContent:
    """Return all that there is to show of a run: a folder of stages, or a stage's checkpoint.

    Raises LaternaError for a folder that holds neither, and for figures that cannot be read.
    """
    stages = find_stages(run)
    recipe = next((one.manifest.recipe for one in stages[::-1] if one.manifest), None)
    finished = [one.folder for one in stages if one.folder is not None]
    versions = dict.fromkeys(one.manifest.laterna for one in stages if one.manifest)
    explained = list(find_explanations(run))
    return ReportContent(
        title=f"Training of {recipe.name if recipe else run.resolve().name}",
        summary="; ".join(map(_summary, stages)) + ".",
        columns=(),
        curves=tuple(curve_of(one.name, one.steps) for one in stages),
        examples=(),
        explanations=tuple(one for some in explained for one in some.shown),
        unexplained=tuple(line for some in explained for line in some.reasons),
        stages=tuple(map(stage_shown, stages)),
        evaluations=tuple(find_evaluations(run)),
        settings=_settings(stages),
        seconds=tuple((one.name, speeds(one.steps).seconds) for one in stages),
        versions=tuple(("laterna", version) for version in versions),
        next_command=f"laterna chat {finished[-1]} --image IMAGE" if finished else "",
    )


def find_stages(run: Path) -> list[Trained]:
    """Return the stages in a run's folder, in the order of training, and those not finished.

    Raises LaternaError as `run_content` does.
    """
    if not run.is_dir():
        raise LaternaError(f"{run}: no such folder")
    if (run / MANIFEST).is_file():
        return [_finished(run)]
    folders = [path.parent for path in sorted(run.glob(f"*/{MANIFEST}"))]
    # One whose name begins with a dot is still being written.
    found = [_finished(folder) for folder in folders if not folder.name.startswith(".")]
    for path in sorted(run.glob(f"*.{METRICS}")):
        steps = _read_steps(path)
        if steps:
            name = f"{path.name.removesuffix(f'.{METRICS}')}, not finished"
            found.append(Trained(name=name, steps=steps))
    if not found:
        raise LaternaError(
            f"{run}: no training run: neither a checkpoint of a stage nor figures of one that "
            "trains; name the folder that `laterna train` was given as --out"
        )
    return sorted(found, key=lambda one: (_place(one), one.name))


class FoundRun(msgspec.Struct, frozen=True, kw_only=True):
    """What `laterna evaluate --out` wrote: figures by task."""

    tasks: dict[str, Found]


def find_evaluations(run: Path) -> Iterator[EvaluationShown]:
    """Yield what evaluations left in the folder, in files or in folders of their own, by name."""
    for path in (*sorted(run.glob("*.json")), *sorted(run.glob(f"*/{FIGURES}"))):
        if path.stat().st_size > SMALL:
            continue
        content = path.read_bytes()
        with suppress(msgspec.DecodeError):  # some other file: its contents say so
            yield _evaluation_shown(path.name, msgspec.json.decode(content, type=Found))
        with suppress(msgspec.DecodeError):
            place = path.parent.name if path.parent != run else path.name
            for task, found in msgspec.json.decode(content, type=FoundRun).tasks.items():
                yield _evaluation_shown(f"{task} ({place})", found)


def _evaluation_shown(name: str, found: Found) -> EvaluationShown:
    columns: dict[str, Shares] = {"assistant": found, **found.controls}
    rows = [("overall", *(_known(one.overall) for one in columns.values()))]
    for kind in found.kinds:
        rows.append((kind, *(_known(one.kinds.get(kind)) for one in columns.values())))
    return EvaluationShown(
        name=f"Evaluation: {name}",
        questions=found.questions,
        columns=tuple(columns),
        rows=tuple(rows),
        skipped=tuple(f"{n} not asked: {reason}" for reason, n in found.skipped.items()),
    )


def stage_shown(stage: Trained) -> StageShown:
    """Return a stage as the page shows it."""
    validated = [step for step in stage.steps if step.validation is not None]
    last = validated[-1] if validated else None
    return StageShown(
        name=stage.name,
        parts=tuple(_parts(stage.manifest)) if stage.manifest else (),
        speeds=_speeds(stage.steps),
        answers=last.validation.answers if last and last.validation else (),
        answered_after=last.step if last else 0,
    )


def _finished(folder: Path) -> Trained:
    manifest = read_manifest(folder)
    if manifest.stage is None or not (folder / METRICS).is_file():
        raise LaternaError(
            f"{folder}: a checkpoint without figures of a training: it was imported, or made by "
            "an early version"
        )
    require_whole(folder, manifest, [METRICS])
    named = folder.name == manifest.stage
    return Trained(
        name=folder.name if named else f"{folder.name} ({manifest.stage})",
        steps=_read_steps(folder / METRICS),
        folder=folder,
        manifest=manifest,
    )


def _read_steps(path: Path) -> tuple[StepFigures, ...]:
    try:
        return tuple(read_metrics(path))
    except msgspec.MsgspecError as error:
        raise LaternaError(f"{path}: not a training's figures by step: {error}") from error


def _place(stage: Trained) -> int:
    name = stage.manifest.stage if stage.manifest else stage.name.partition(",")[0]
    stages = get_args(StageName)
    return stages.index(name) if name in stages else len(stages)


def _summary(stage: Trained) -> str:
    losses = [step.loss for step in stage.steps]
    validation = [step.validation.loss for step in stage.steps if step.validation is not None]
    line = f"{stage.name}: {len(losses):,} steps in {duration(speeds(stage.steps).seconds)}, "
    line += f"loss {losses[0]:.3f} at first and {losses[-1]:.3f} at last"
    if not validation:
        return line
    last = "not finite" if validation[-1] is None else f"{validation[-1]:.3f}"
    return f"{line}, validation loss {last}"


def _parts(manifest: Manifest) -> Iterator[tuple[str, ...]]:
    """Yield a line for each part; checkpoints of early versions have no counts of weights."""
    assert manifest.stage is not None
    settings = manifest.recipe.stage(manifest.stage)
    for name in get_args(PartName):
        part = settings.part(name)
        counts = [manifest.figures.get(f"{name}_{what}") for what in ("trained", "frozen")]
        trained, frozen = ("–" if count is None else f"{count:,.0f}" for count in counts)
        rate = "–" if part.mode == "frozen" else f"{part.lr:g}"
        yield name, part.mode, trained, frozen, rate


def _speeds(steps: Sequence[StepFigures]) -> NamedTexts:
    found = speeds(steps)
    return (
        ("optimizer steps", f"{len(steps):,}"),
        ("seconds a step", f"{found.seconds / len(steps):.3f}"),
        ("target tokens a second", f"{found.target_tokens:,.0f}"),
        ("tokens a second", f"{found.tokens:,.0f}"),
        ("images a second", f"{found.images:,.1f}"),
        ("padding, of the tokens", share(found.padding, 1)),
        ("vision tower, of a step", share(found.vision, 1)),
        ("loop, of a step", share(found.loop, 1)),
        ("MFU", "not known" if found.mfu is None else share(found.mfu, 1)),
        ("steps skipped", f"{steps[-1].skipped:,}"),
        ("steps without an image left", f"{steps[-1].empty:,}"),
        ("records left out", f"{steps[-1].faulty:,}"),
    )


def _settings(stages: Sequence[Trained]) -> NamedTexts:
    """Return the recipe's settings; where an earlier stage had another value, both."""
    found: dict[str, str] = {}
    for stage in stages:
        if stage.manifest is None:
            continue
        for name, value in _flat(msgspec.to_builtins(stage.manifest.recipe)):
            before = found.get(name)
            differs = before is not None and before != value
            found[name] = f"{value} (before: {before})" if differs else value
    return tuple(found.items())


def _flat(settings: object, prefix: str = "") -> Iterator[tuple[str, str]]:
    assert isinstance(settings, dict)
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        elif value not in (None, "", [], ()):
            yield f"{prefix}{name}", value if isinstance(value, str) else str(value)


def _known(part: float | None) -> str:
    return "–" if part is None else share(part, 1)
