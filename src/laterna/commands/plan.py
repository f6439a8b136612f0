"""`laterna plan`: tokens, FLOPs, memory, hours and money of a recipe before it is run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
from tyro.conf import Fixed, Positional, Suppress, arg

from laterna.choices import KeysOf
from laterna.commands.base import STAGES, Command, Reads, StageChoice, Writes, recipe_reads
from laterna.errors import LaternaError
from laterna.files import write_json
from laterna.recipe import (
    Amount,
    Count,
    PartShare,
    Recipe,
    StageName,
    Together,
    Tokens,
    checked,
    load_recipe,
)

if TYPE_CHECKING:
    from laterna.planner.assumptions import Lengths
    from laterna.planner.plan import Plan as Planned


class Plan(Command, frozen=True, kw_only=True):
    """Estimate what a recipe takes before it is run: tokens, FLOPs, memory, hours, money.

    RECIPE comes first; `laterna plan RECIPE --help` lists every setting that may follow it. No
    weights are read: a folder with only config.json is enough for a model, as in
    `--language.source DIR`.
    """

    recipe: Positional[str]
    """TOML file, or name of a shipped recipe."""
    stage: StageChoice = "both"
    """Which stage to plan."""
    gpu: Annotated[str, KeysOf("laterna.planner.hardware:GPUS")] | None = None
    """Kind of GPU, such as H100-80GB; default: all that are known."""
    gpus: Together = 1
    """Number of GPUs."""
    records: tuple[Count, ...] = ()
    """Records of each planned stage, in order; default: no hours."""
    text_tokens: tuple[Tokens, ...] = ()
    """Tokens of a typical record of each planned stage, without its image; default: 20 in
    align, 200 in instruct."""
    target_tokens: tuple[Tokens, ...] = ()
    """Of these, the ones that are learned; default: 18 in align, 130 in instruct."""
    longest_text: tuple[Tokens, ...] = ()
    """The same of the longest record, to which others are padded; default: three times as many
    as of a typical one."""
    per_image: tuple[Together, ...] = ()
    """Records about one image, where a stage shares images; default: 5 in align, 3 in
    instruct."""
    mfu: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.4
    """Model FLOPs utilization to assume: a share of the GPU's peak."""
    headroom: PartShare = 0.1
    """Share of GPU memory to leave free, for driver, libraries and fragmentation."""
    price: Amount | None = None
    """Money that a GPU costs in an hour; default: no money."""
    tiles: Annotated[int, msgspec.Meta(ge=1, le=4097)] | None = None
    """Tiles of every image where a recipe tiles them (`vision.fit = "anyres"`), the whole view
    included; default: by the sizes of the recipe's own images, where they can be read, else as on
    the largest grid."""
    out: Path | None = None
    """JSON file for the plan; default: only printed."""

    def settings_to_plan(self) -> Recipe:
        """Return the recipe as it is in its file."""
        return load_recipe(self.recipe)

    def reads(self) -> Iterator[Reads]:
        """Name the recipe, and what training by it reads."""
        from laterna.training.checks import require_meant

        settings, stages = self.settings_to_plan(), STAGES[self.stage]
        require_meant(settings, stages)
        yield Reads(Path(self.recipe), kind="maybe")
        yield from recipe_reads(settings, stages)

    def writes(self) -> Iterator[Writes]:
        """Name the plan's file."""
        if self.out is not None:
            yield Writes(self.out)

    def run(self) -> str:
        """Call `laterna.planner` and show its tables."""
        from rich.console import Console

        from laterna.planner.assumptions import Assumptions
        from laterna.planner.plan import plan_recipe
        from laterna.planner.tables import plan_tables

        settings, stages = self.settings_to_plan(), STAGES[self.stage]
        plan = plan_recipe(
            settings,
            Assumptions(
                gpus=self.gpus,
                mfu=self.mfu,
                headroom=self.headroom,
                price=self.price,
                tiles=self.tiles,
            ),
            stages=stages,
            records=_by_stage("records", self.records, stages),
            lengths=self._lengths(stages),
            gpu=self.gpu,
        )
        console = Console()
        for table in plan_tables(plan):
            console.print(table)
        if plan.published:
            names = ", ".join(plan.published)
            console.print(
                f"model configurations shipped with Laterna: {names}", soft_wrap=True, markup=False
            )
        return self._closing(plan)

    def _lengths(self, stages: tuple[StageName, ...]) -> dict[StageName, Lengths]:
        from laterna.planner.assumptions import LENGTHS, Lengths

        texts = _by_stage("text-tokens", self.text_tokens, stages)
        targets = _by_stage("target-tokens", self.target_tokens, stages)
        longest = _by_stage("longest-text", self.longest_text, stages)
        together = _by_stage("per-image", self.per_image, stages)
        found = {}
        for stage in stages:
            text = texts.get(stage, LENGTHS[stage].text)
            found[stage] = Lengths(
                text=text,
                targets=targets.get(stage, min(text, LENGTHS[stage].targets)),
                longest=longest.get(stage, 3 * text),
                per_image=together.get(stage, LENGTHS[stage].per_image),
            )
        return found

    def _closing(self, plan: Planned) -> str:
        line = f"planned {' and '.join(stage.stage for stage in plan.stages)} of {plan.recipe}"
        hours = [row.hours for stage in plan.stages for row in stage.gpus if row.hours is not None]
        if self.gpu is not None:
            fits = all(row.fits for stage in plan.stages for row in stage.gpus)
            line += f": {'fits' if fits else 'does not fit'} {self.gpu}"
            line += f", {sum(hours):,.3g} hours on {self.gpus}" if hours else ""
        if self.out is None:
            return line
        write_json(self.out, plan)
        return f"{line}; made {self.out}"


class TunedPlan(Plan, frozen=True, kw_only=True):
    """Plan this recipe; every setting below can be changed."""

    recipe: Suppress[Fixed[str]]
    settings: Annotated[Recipe, arg(name="")]

    def settings_to_plan(self) -> Recipe:
        """Return the recipe with what the command line changed in it."""
        return checked(self.settings)


def _by_stage(
    flag: str, values: tuple[int, ...], stages: tuple[StageName, ...]
) -> dict[StageName, int]:
    """Return the values by stage; raises LaternaError unless there is one a stage, or none."""
    if values and len(values) != len(stages):
        raise LaternaError(
            f"--{flag}: {len(values)} given, but the planned stages are {', '.join(stages)}; give "
            "one for each, or name one stage by --stage"
        )
    return dict(zip(stages, values, strict=False))
