"""`laterna prepare`: a recipe's records become samples that lie ready on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from laterna.commands.base import Command
from laterna.recipe import StageName, load_recipe


class Prepare(Command, frozen=True, kw_only=True):
    """Tokenise, mask, check and count a recipe's records, and plan its steps.

    Training does it too; done before, it needs no accelerator and no weights, and says what is
    dropped and why. Killed and run again, it goes on where it was.
    """

    recipe: Positional[str]
    """TOML file, or name of a shipped recipe."""
    stage: Literal["align", "instruct", "both"] = "both"
    """Whose records to prepare."""
    workers: int = 0
    """Processes that do it; 0: as many as there are cores."""

    def run(self) -> str:
        """Call `laterna.training.ready`."""
        from rich.console import Console

        from laterna.data.preparation import DIGESTS
        from laterna.data.sources import Contents
        from laterna.model.build import picture_counter
        from laterna.model.language import load_tokenizer
        from laterna.training.ready import plan_stage, plan_table, prepare_stage

        recipe = load_recipe(self.recipe)
        tokenizer, counter = load_tokenizer(recipe.language), picture_counter(recipe)
        console, contents = Console(), Contents(Path(recipe.prepared) / DIGESTS)
        stages: tuple[StageName, ...] = ("align", "instruct")
        records = 0
        for stage in stages:
            if self.stage in (stage, "both"):
                prepared = prepare_stage(
                    tokenizer,
                    counter,
                    recipe,
                    stage,
                    console,
                    workers=self.workers,
                    contents=contents,
                )
                plan = plan_stage(prepared, recipe.stage(stage), seed=recipe.seed)
                console.print(plan_table(stage, prepared, plan))
                records += len(prepared.samples)
        return f"prepared {records:,} records; made {recipe.prepared}"
