"""What is refused before anything is read: settings that make no sense, files that are missing, and
a folder that another run uses or has finished in.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

import msgspec

from laterna.data.sources import HUB
from laterna.errors import LaternaError
from laterna.files import held, recover, some
from laterna.model.checkpoint import MANIFEST, read_manifest
from laterna.model.fusion import fusion_kind
from laterna.model.pretrained import tensors_of
from laterna.recipe import PartName, Recipe, StageName, StageSettings, VisionSettings
from laterna.training.parallel import Ranks
from laterna.training.resume import HOW
from laterna.training.trackers import require_installed

PROJECTOR_FILE = "mm_projector.bin"
"""The file in which LLaVA's stage 1 leaves its connector."""
PARTS: tuple[PartName, ...] = get_args(PartName)
SHORTEST = 4
"""Fewest tokens of a record: one each to open it, to ask, to answer and to end."""


def require_sensible(recipe: Recipe, stages: Sequence[StageName]) -> None:
    """Raise LaternaError, naming the settings, where some stages' settings make no sense, or need
    packages that are not installed.
    """
    require_meant(recipe, stages)
    _require_packages(recipe, stages)


def require_meant(recipe: Recipe, stages: Sequence[StageName]) -> None:
    """Raise LaternaError, naming the settings, where some stages' settings make no sense on any
    machine.
    """
    if recipe.vision.fit != "anyres" and recipe.vision.grids != VisionSettings(source="").grids:
        raise LaternaError(
            f"vision.grids are for vision.fit = 'anyres', which is {recipe.vision.fit!r}: leave "
            "them out, or set it"
        )
    if recipe.compile and not fusion_kind(recipe.fusion).compiles:
        raise LaternaError(
            f"compile = true with fusion.kind = {recipe.fusion.kind!r}: what its blocks look at "
            "changes with every batch, for which layers would be compiled anew; leave out compile"
        )
    for name in stages:
        _require_parts(recipe, name)
        _require_data(recipe.stage(name), name)
    taught, served = recipe.instruct.template, recipe.language.template
    if "instruct" in stages and taught != served:
        raise LaternaError(
            f"instruct.template = {taught!r} but language.template = {served!r}: the assistant "
            "would be served with another template than it was taught; make them equal"
        )
    both = (recipe.align, recipe.instruct)
    if recipe.run.eval_steps and not any(
        stage.validation or any(not one.weight for one in stage.mixture()) for stage in both
    ):
        raise LaternaError(
            f"run.eval_steps = {recipe.run.eval_steps}, but there are no validation records: set "
            "`validation` of a stage, or a source of weight 0"
        )


def require_there(stage: StageSettings) -> None:
    """Raise LaternaError where a stage's records or images are missing on this machine."""
    for source in stage.mixture():
        for name in (source.data, source.images):
            if name and not name.startswith(HUB) and not Path(name).exists():
                raise LaternaError(f"{name}: no such file or folder, but the stage trains on it")


def require_start(recipe: Recipe, init_from: Path | None) -> None:
    """Raise LaternaError for an `init_from` that cannot be one, before any model is read."""
    if init_from is None:
        return
    recover(init_from)
    if not init_from.exists():
        raise LaternaError(f"{init_from}: no such checkpoint or file of weights; give one of them")
    if init_from.is_file():
        if not tensors_of(str(init_from.parent), [init_from.name]):
            raise LaternaError(f"{init_from}: holds no weights")
    elif (init_from / MANIFEST).is_file() or not (init_from / PROJECTOR_FILE).is_file():
        before = read_manifest(init_from).recipe
        for name in ("vision", "connector", "language", "fusion"):
            if getattr(before, name) != getattr(recipe, name):
                raise LaternaError(
                    f"{init_from}: was trained with other [{name}] settings than recipe "
                    f"{recipe.name}; give both stages the same"
                )


def _require_parts(recipe: Recipe, name: StageName) -> None:
    stage = recipe.stage(name)
    modes = {part: stage.part(part).mode for part in PARTS}
    for part, mode in modes.items():
        if mode != "frozen" and stage.part(part).lr <= 0:
            raise LaternaError(
                f"{name}.{part}.lr = {stage.part(part).lr:g}: a part in mode `{mode}` needs a "
                "learning rate above 0"
            )
    if set(modes.values()) == {"frozen"}:
        raise LaternaError(
            f"{name}: the stage trains no part; set the mode of at least one to `full`"
        )
    if modes["connector"] not in ("frozen", "full"):
        raise LaternaError(
            f"{name}.connector.mode = `{modes['connector']}`: a connector trains whole; use `full`"
        )
    if recipe.feature_cache and modes["vision"] != "frozen":
        raise LaternaError(
            f"feature_cache = {recipe.feature_cache!r} keeps the features of an encoder that stays "
            f"as it is, but {name}.vision.mode = `{modes['vision']}` trains it: leave out one"
        )
    language = modes["language"]
    if recipe.language.quantize and not language.startswith(("frozen", "lora")):
        raise LaternaError(
            f"{name}.language.mode = `{language}`: matrices in 4 bits do not train; use `lora` or "
            "`frozen`, or leave out language.quantize"
        )


def _require_packages(recipe: Recipe, stages: Sequence[StageName]) -> None:
    require_installed(recipe.run.report_to)
    modes = [recipe.stage(name).part(part).mode for name in stages for part in PARTS]
    optimizers = [recipe.stage(name).optimizer for name in stages]
    needed = (
        (any(mode.startswith("lora") for mode in modes), "mode = `lora`", "peft", "adapters"),
        ("adamw8bit" in optimizers, "optimizer = 'adamw8bit'", "bitsandbytes", "bitsandbytes"),
        (bool(recipe.language.quantize), "language.quantize", "bitsandbytes", "bitsandbytes"),
    )
    for wanted, what, package, extra in needed:
        if wanted and find_spec(package) is None:
            raise LaternaError(
                f"{what} needs the package {package}; run `pip install 'laterna[{extra}]'`, or "
                "leave it out"
            )


def _require_data(stage: StageSettings, name: StageName) -> None:
    if not any(source.weight for source in stage.mixture()):
        raise LaternaError(f"{name}: every source has weight 0, so there is nothing to train on")
    if 0 < stage.pack_length < SHORTEST or stage.max_tokens < SHORTEST:
        raise LaternaError(
            f"{name}: pack_length = {stage.pack_length}, max_tokens = {stage.max_tokens}: shorter "
            f"than any record, which has {SHORTEST} tokens at least"
        )
    if stage.shared_prefix and stage.loss_on in ("chat", "all"):
        raise LaternaError(
            f"{name}.loss_on = {stage.loss_on!r} with shared_prefix: words before an image, which "
            "its records share, would be learned once for all of them; set shared_prefix = false"
        )


@contextmanager
def held_by_one(out: Path, stage: StageName, ranks: Ranks) -> Iterator[None]:
    """Lock a checkpoint's path for all ranks of a run; rank 0 has the lock.

    What a killed run had moved away from it is put back. Raises LaternaError, on every rank, when
    another run has the lock.
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


def require_not_anothers(out: Path, recipe: Recipe, stage: StageName) -> None:
    """Raise LaternaError, naming what differs, where `out` holds a finished checkpoint."""
    if not (out / MANIFEST).is_file():
        return
    before = read_manifest(out)
    differs = [] if before.stage != stage else _differences(before.recipe, recipe, stage)
    what = f"stage {before.stage}" if before.stage != stage else some(differs)
    raise LaternaError(
        f"{out}: holds the finished checkpoint of another run, which would be lost; what differs: "
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
    """Return a recipe's settings by their dotted names, without the other stage's and without how a
    run is carried out (`HOW`).
    """
    plain = msgspec.to_builtins(recipe)
    other: StageName = "instruct" if stage == "align" else "align"
    for name in (other, *HOW):
        del plain[name]
    return dict(_named(plain))


def _named(settings: dict[str, object], before: str = "") -> Iterator[tuple[str, object]]:
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _named(value, f"{before}{name}.")
        else:
            yield before + name, value


def _remove_unfinished(out: Path) -> None:
    """Remove what killed runs were saving; the lock excludes other runs."""
    for aside in out.with_name(f"{out.name}.state").glob("*/.*.part"):
        shutil.rmtree(aside, ignore_errors=True)
