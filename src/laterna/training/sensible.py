"""What a recipe says is meant and can be done here: told before anything is read or made."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

from laterna.data.sources import HUB
from laterna.errors import LaternaError
from laterna.recipe import PartName, Recipe, StageName, StageSettings, VisionSettings
from laterna.training.tracking import insist_installed

PARTS: tuple[PartName, ...] = get_args(PartName)
SHORTEST = 4
"""Tokens that a record has at least: one that opens, one asked, one answered, one that ends."""


def insist_sensible(recipe: Recipe, stages: Sequence[StageName]) -> None:
    """Raise LaternaError, naming the settings, where what some stages are to do cannot be meant.

    All that settings alone tell is told here, before anything is read.
    """
    if recipe.vision.fit != "anyres" and recipe.vision.grids != VisionSettings(source="").grids:
        raise LaternaError(
            f"vision.grids are for vision.fit = 'anyres', which is {recipe.vision.fit!r}: leave "
            "them out, or set it"
        )
    for name in stages:
        _insist_on_parts(recipe, name)
        _insist_on_data(recipe.stage(name), name)
    taught, served = recipe.instruct.template, recipe.language.template
    if "instruct" in stages and taught != served:
        raise LaternaError(
            f"instruct.template = {taught!r} but language.template = {served!r}: the assistant "
            "would be served with another template than it was taught; make them equal"
        )
    _insist_on_packages(recipe, stages)
    both = (recipe.align, recipe.instruct)
    if recipe.run.held_out_steps and not any(
        stage.held_out or any(not one.weight for one in stage.mixture()) for stage in both
    ):
        raise LaternaError(
            f"run.held_out_steps = {recipe.run.held_out_steps}, but nothing is held out: set "
            "held_out of a stage, or a source of weight 0"
        )


def insist_there(stage: StageSettings) -> None:
    """Raise LaternaError where a stage's records or pictures are named on this machine and are not
    on it.
    """
    for source in stage.mixture():
        for name in (source.data, source.pictures):
            if name and not name.startswith(HUB) and not Path(name).exists():
                raise LaternaError(f"{name}: no such file or folder; it is to be trained on")


def _insist_on_parts(recipe: Recipe, name: StageName) -> None:
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
    if recipe.language.quantise and not language.startswith(("frozen", "lora")):
        raise LaternaError(
            f"{name}.language.mode = `{language}`: matrices in 4 bits do not train; use `lora` or "
            "`frozen`, or leave out language.quantise"
        )


def _insist_on_packages(recipe: Recipe, stages: Sequence[StageName]) -> None:
    insist_installed(recipe.run.trackers)
    modes = [recipe.stage(name).part(part).mode for name in stages for part in PARTS]
    optimisers = [recipe.stage(name).optimiser for name in stages]
    needed = (
        (any(mode.startswith("lora") for mode in modes), "mode = `lora`", "peft", "adapters"),
        ("adamw8bit" in optimisers, "optimiser = 'adamw8bit'", "bitsandbytes", "bitsandbytes"),
        (bool(recipe.language.quantise), "language.quantise", "bitsandbytes", "bitsandbytes"),
    )
    for wanted, what, package, extra in needed:
        if wanted and find_spec(package) is None:
            raise LaternaError(
                f"{what} needs the package {package}; run `pip install 'laterna[{extra}]'`, or "
                "leave it out"
            )


def _insist_on_data(stage: StageSettings, name: StageName) -> None:
    if not any(source.weight for source in stage.mixture()):
        raise LaternaError(f"{name}: every source has weight 0, so there is nothing to train on")
    if 0 < stage.row_tokens < SHORTEST or stage.max_tokens < SHORTEST:
        raise LaternaError(
            f"{name}: row_tokens = {stage.row_tokens}, max_tokens = {stage.max_tokens}: shorter "
            f"than any record, which has {SHORTEST} tokens at least"
        )
