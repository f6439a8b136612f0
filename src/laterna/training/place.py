"""Where a run writes: held by one run at a time, and never taken from another that is finished."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from laterna.errors import LaternaError
from laterna.files import held, recover, some
from laterna.model.checkpoint import MANIFEST, read_manifest
from laterna.recipe import Recipe, StageName
from laterna.training.distributed import Ranks


@contextmanager
def held_by_one(out: Path, stage: StageName, ranks: Ranks) -> Iterator[None]:
    """Hold the place of a checkpoint for all ranks of a run; rank 0 has the lock.

    What a killed run had moved aside from it is put back. Raises LaternaError, on every rank, when
    another run holds it.
    """
    with ExitStack() as stack:
        refused: LaternaError | None = None
        if ranks.first:
            try:
                stack.enter_context(held(out, f"training of stage {stage}"))
                recover(out)
                _remove_unfinished(out)
            except LaternaError as error:
                refused = error
        if ranks.any(refused is not None):
            raise refused or LaternaError(f"{out}: another run is at work there")
        yield


def insist_not_anothers(out: Path, recipe: Recipe, stage: StageName) -> None:
    """Raise LaternaError, naming what differs, where `out` holds a finished checkpoint."""
    if not (out / MANIFEST).is_file():
        return
    before = read_manifest(out)
    differs = [] if before.stage != stage else _differences(before.recipe, recipe, stage)
    what = f"stage {before.stage}" if before.stage != stage else some(differs)
    raise LaternaError(
        f"{out}: holds the finished checkpoint of another run, which would be lost; other is: "
        f"{what or 'the data, or what it started from'}; name a new folder by --out, or replace it "
        "by --overwrite"
    )


def _differences(before: Recipe, now: Recipe, stage: StageName) -> list[str]:
    old, new = _flat(before, stage), _flat(now, stage)
    return [
        f"{name} {old.get(name, 'unset')!r}, now {new.get(name, 'unset')!r}"
        for name in {**old, **new}
        if old.get(name) != new.get(name)
    ]


def _flat(recipe: Recipe, stage: StageName) -> dict[str, object]:
    """Return a recipe's settings by their dotted names, without those of the other stage, of how a
    run is carried out, and of where it keeps things.
    """
    told = msgspec.to_builtins(recipe)
    other: StageName = "instruct" if stage == "align" else "align"
    for name in (other, "run", "threads", "prepared", "feature_cache"):
        del told[name]
    flat: dict[str, object] = {}
    left = list(told.items())
    while left:
        name, value = left.pop(0)
        if isinstance(value, dict):
            left = [(f"{name}.{key}", one) for key, one in value.items()] + left
        else:
            flat[name] = value
    return flat


def _remove_unfinished(out: Path) -> None:
    """Remove what killed runs were saving: no other run is at work here."""
    for aside in out.with_name(f"{out.name}.state").glob("*/.*.part"):
        shutil.rmtree(aside, ignore_errors=True)
