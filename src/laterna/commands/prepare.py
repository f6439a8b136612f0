"""`laterna prepare`: a recipe's records become samples that lie ready on disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tyro.conf import Positional

from laterna.commands.base import STAGES, Command, Reads, StageChoice, Writes, recipe_reads
from laterna.recipe import Workers, load_recipe


class Prepare(Command, frozen=True, kw_only=True):
    """Tokenize, mask, check and count a recipe's records, and plan its steps.

    Training does it too; done before, it needs no accelerator and no weights, and says what is
    dropped and why. Killed and run again, it goes on where it was.
    """

    recipe: Positional[str]
    """TOML file, or name of a shipped recipe."""
    stage: StageChoice = "both"
    """Stage whose records to prepare."""
    workers: Workers = 0
    """Number of processes. 0: one per core."""

    def reads(self) -> Iterator[Reads]:
        """Name the recipe, its records and its models."""
        yield Reads(Path(self.recipe), kind="maybe")
        yield from recipe_reads(load_recipe(self.recipe), STAGES[self.stage])

    def writes(self) -> Iterator[Writes]:
        """Name the folder of prepared records."""
        yield Writes(Path(load_recipe(self.recipe).prepared), grows=True)

    def run(self) -> str:
        """Call `laterna.training.prepare`."""
        from rich.console import Console

        from laterna.data.fingerprints import Fingerprints
        from laterna.data.preparation import FINGERPRINTS
        from laterna.model.build import image_counter, language_positions
        from laterna.model.language.tokenizer import load_tokenizer
        from laterna.training.prepare import plan_stage, plan_table, prepare_stage

        recipe = load_recipe(self.recipe)
        tokenizer, counter = load_tokenizer(recipe.language), image_counter(recipe)
        positions = language_positions(recipe)
        console, known = Console(), Fingerprints(Path(recipe.prepared) / FINGERPRINTS)
        records = 0
        for stage in STAGES[self.stage]:
            prepared = prepare_stage(
                tokenizer,
                counter,
                recipe,
                stage,
                console,
                workers=self.workers,
                known=known,
                positions=positions,
            )
            plan = plan_stage(prepared, recipe.stage(stage), seed=recipe.seed)
            console.print(plan_table(stage, prepared, plan))
            records += len(prepared.samples)
        return f"prepared {records:,} records; made {recipe.prepared}"
