"""`laterna train`: an assistant in two stages."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from tyro.conf import Fixed, Positional, Suppress, arg

from laterna.commands.base import RUNS, STAGES, Command, Reads, StageChoice, Writes, recipe_reads
from laterna.files import Made
from laterna.recipe import Recipe, load_recipe


class Train(Command, frozen=True, kw_only=True):
    """Train an assistant in two stages: align the connector, then tune on instructions.

    RECIPE comes first; `laterna train RECIPE --help` lists every setting that may follow it,
    such as `--instruct.connector.lr 1e-4`.
    """

    recipe: Positional[str]
    """TOML file, or name of a shipped recipe."""
    stage: StageChoice = "both"
    """Stage to train. `both`: the second starts from the first one's checkpoint."""
    out: Path | None = None
    """Folder for the checkpoints OUT/align and OUT/instruct; default: runs/NAME."""
    init_from: Path | None = None
    """What the first stage trained here starts from: a checkpoint, or a connector alone as a
    safetensors file or LLaVA's `mm_projector.bin`; default: the recipe's parts, and for `instruct`
    alone the checkpoint OUT/align where there is one."""
    overwrite: bool = False
    """Replace finished checkpoints of other runs in that folder."""

    def settings_to_train(self) -> Recipe:
        """Return the recipe as it is in its file."""
        return load_recipe(self.recipe)

    def _folder(self) -> Path:
        return self.out or RUNS / self.settings_to_train().name

    def reads(self) -> Iterator[Reads]:
        """Yield the recipe, its records and models, and `init_from`."""
        from laterna.training.checks import require_sensible

        settings, stages = self.settings_to_train(), STAGES[self.stage]
        require_sensible(settings, stages)
        yield Reads(Path(self.recipe), kind="maybe")
        yield from recipe_reads(settings, stages)
        if self.init_from is not None:
            yield Reads(self.init_from)

    def writes(self) -> Iterator[Writes]:
        """Yield the checkpoints, and the folders that all runs share."""
        from laterna.model.checkpoint import KIND, PAGE

        made = Made(kind=KIND, later=(PAGE,))
        yield from (Writes(self._folder() / stage, made) for stage in STAGES[self.stage])
        settings = self.settings_to_train()
        shared = (settings.prepared, settings.feature_cache)
        yield from (Writes(Path(folder), grows=True) for folder in shared if folder)

    def run(self) -> str:
        """Call `laterna.training.run`, once a stage."""
        settings = self.settings_to_train()
        from laterna.model.checkpoint import MANIFEST
        from laterna.training.run import train

        out = self._folder()
        checkpoint = self.init_from
        first = out / "align"
        if self.stage == "instruct" and checkpoint is None and (first / MANIFEST).is_file():
            checkpoint = first
            sys.stderr.write(f"starting from {first}\n")
        for stage in STAGES[self.stage]:
            checkpoint = train(
                settings,
                stage=stage,
                out=out / stage,
                init_from=checkpoint,
                overwrite=self.overwrite,
            )
        return f"made the checkpoint {checkpoint}; talk to it: laterna chat {checkpoint}"


class TunedTrain(Train, frozen=True, kw_only=True):
    """Train an assistant by this recipe. Every setting below can be changed."""

    recipe: Suppress[Fixed[str]]
    settings: Annotated[Recipe, arg(name="")]

    def settings_to_train(self) -> Recipe:
        """Return the recipe with what the command line changed in it."""
        return self.settings
