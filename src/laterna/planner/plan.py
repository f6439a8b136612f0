"""A recipe's plan: stage by stage what it trains, computes and holds, and on which GPU it fits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from msgspec.structs import replace

from laterna.errors import LaternaError
from laterna.model.build import build_on_meta
from laterna.model.cost import Cost, cost_of
from laterna.model.sources import with_published
from laterna.model.vlm import VisionLanguageModel
from laterna.planner.assumptions import (
    EXACT,
    FORMATS,
    LENGTHS,
    Assumptions,
    Lengths,
    fill_step,
    records_together,
)
from laterna.planner.dry_run import (
    DryRun,
    Load,
    Resolution,
    count_bytes,
    count_cache,
    count_flops,
    resolutions,
    shapes_alone,
)
from laterna.planner.hardware import GIB, GPUS, TERA, Gpu, gpu_named
from laterna.planner.images import Images, ShownImage, filled_grids, stage_images
from laterna.planner.sharding import Share, share_of
from laterna.recipe import Mode, PartName, Precision, Recipe, StageName, StageSettings
from laterna.records import Record
from laterna.training.optimizers import moment_bytes, require_whole_weights
from laterna.training.stages import FROZEN, StageSummary, apply_stage


class PartPlan(Record):
    """One part in a stage."""

    part: PartName
    mode: Mode
    weights: int
    """All of them; a weight that two parts of a model share counts once."""
    trained: int
    forward_flops: float
    """For one record."""
    backward_flops: float


class Memory(Record):
    """Bytes on one GPU, or of a CPU process, at the fullest moment of a step."""

    weights: int
    gradients: int
    optimizer: int
    kept: dict[PartName, int]
    """Of the activations, what each part keeps for the backward pass."""
    activations: int
    """All that comes and goes in a step: what is kept, and operators' temporary tensors."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.activations


class GpuPlan(Record):
    """One stage on one kind of GPU."""

    gpu: str
    fits: bool
    fits_checkpointed: bool
    """The same with activation checkpointing."""
    hours: float | None
    """Of the whole stage; None where the number of records is not given."""
    money: float | None
    """None where that or the price is not given."""


class StagePlan(Record):
    """One stage of a recipe."""

    stage: StageName
    parts: tuple[PartPlan, ...]
    lengths: Lengths
    images: Images
    tokens: int
    """Of one typical record, its image included."""
    load: Load
    """A full micro-batch on one GPU."""
    micro_batches: int
    """On one GPU, in a step."""
    global_batch_size: int
    flops: float
    """Forward and backward, for one record, padding left out."""
    attention_flops: float
    """Of these, what grows quadratically with the tokens of a row."""
    checkpointed: bool
    """Whether the recipe has `gradient_checkpointing`."""
    memory: Memory
    """As the stage trains."""
    memory_kept: Memory
    """With all that layers keep for the backward pass."""
    memory_checkpointed: Memory
    """With the layers' inputs alone, from which the rest is computed again."""
    images_ahead: int
    """Bytes of the prepared images that wait for their steps, in the host's memory."""
    feature_cache: int | None
    """Bytes on disk of the encoder's features for all records' images, where they are cached
    and the number of records is given."""
    records: int | None
    steps: int | None
    gpus: tuple[GpuPlan, ...]

    @property
    def flops_step(self) -> float:
        """FLOPs of an optimizer step, over all GPUs."""
        return self.flops * self.global_batch_size


class Plan(Record):
    """A recipe's plan."""

    recipe: str
    assumptions: Assumptions
    precision: Precision
    engine: str
    published: tuple[str, ...]
    """Models whose configurations are those that Laterna ships, for none was on this machine."""
    image_side: int
    """Pixels."""
    image_tokens: int
    """Of an image on the grid that takes most, where images are tiled."""
    fewest_image_tokens: int
    tiles: int
    """Squares that the encoder reads of that image."""
    stages: tuple[StagePlan, ...]
    resolutions: tuple[Resolution, ...]
    answering_tokens: int
    """The longest row of the last stage planned."""
    answering_weights: int
    """Bytes of all weights at inference."""
    answering_cache: int
    """Bytes of the KV cache of one chat of `answering_tokens`."""
    answering_beside: int
    """Bytes of the keys and values that cross-attention keeps of one image."""


def plan_recipe(
    recipe: Recipe,
    assumptions: Assumptions,
    *,
    stages: Sequence[StageName] = ("align", "instruct"),
    records: Mapping[StageName, int] | None = None,
    lengths: Mapping[StageName, Lengths] | None = None,
    gpu: str | None = None,
) -> Plan:
    """Plan stages of a recipe from configurations alone; `gpu` None: for all known ones.

    Raises LaternaError when a configuration is missing, a stage cannot be applied or trained as the
    recipe says, or a model needs more than shapes.
    """
    _require_trainable(recipe, stages, assumptions.gpus)
    gpus = GPUS if gpu is None else {gpu: gpu_named(gpu)}
    planned_recipe, published = with_published(recipe)
    skeleton = build_on_meta(planned_recipe)
    for module in skeleton.parts().values():
        module.to(FORMATS[recipe.precision].torch_dtype())
    grids = filled_grids(skeleton)
    answering = DryRun(skeleton, grids[-1])
    weights = sum(one.nbytes for one in answering.parameters())
    with shapes_alone():
        table = resolutions(answering, cost_of(skeleton).forward)
    longest = recipe.stage(stages[-1]).max_tokens
    cache = count_cache(answering, longest)
    known = {**LENGTHS, **(lengths or {})}
    planned = []
    for stage in stages:  # in order: adapters of the first are there in the second
        planner = _stage_planner(skeleton, recipe, stage, assumptions, known[stage])
        planned.append(planner.plan((records or {}).get(stage), gpus))
    return Plan(
        recipe=recipe.name,
        assumptions=assumptions,
        precision=recipe.precision,
        engine=recipe.run.engine,
        image_side=answering.side,
        published=published,
        image_tokens=grids[-1].tokens,
        fewest_image_tokens=grids[0].tokens,
        tiles=round(grids[-1].tiles),
        stages=tuple(planned),
        resolutions=table,
        answering_tokens=longest,
        answering_weights=weights,
        answering_cache=cache,
        answering_beside=answering.beside_bytes(grids[-1].beside),
    )


def _require_trainable(recipe: Recipe, stages: Sequence[StageName], gpus: int) -> None:
    """Raise LaternaError for what training would refuse, and for what cannot be planned."""
    if recipe.language.quantize:
        raise LaternaError(
            "language.quantize: models in 4 bits cannot be planned yet; leave it out to plan the "
            "same with whole weights, which take more memory"
        )
    for stage in stages:
        sharded = recipe.run.engine == "fsdp" and gpus > 1
        require_whole_weights(recipe.stage(stage), sharded=sharded)


def _stage_planner(
    skeleton: VisionLanguageModel,
    recipe: Recipe,
    stage: StageName,
    assumptions: Assumptions,
    lengths: Lengths,
) -> _StagePlanner:
    """Apply a stage to the skeleton and return its planner."""
    summary = apply_stage(skeleton, recipe, stage)
    cached = bool(recipe.feature_cache) and recipe.stage(stage).vision.mode == FROZEN
    images = stage_images(skeleton, recipe, stage, assumptions.tiles)
    with shapes_alone():
        cost = cost_of(skeleton)
    if cached:
        cost = Cost(*(one._replace(vision=0.0) for one in cost))
    return _StagePlanner(
        recipe=recipe,
        stage=stage,
        dry_run=DryRun(skeleton, images.typical, sees=not cached),
        summary=summary,
        cost=cost,
        given=assumptions,
        lengths=lengths,
        moments=moment_bytes(skeleton, recipe.stage(stage)),
        images=images,
    )


@dataclass(frozen=True, kw_only=True)
class _StagePlanner:
    """The figures of one stage."""

    recipe: Recipe
    stage: StageName
    dry_run: DryRun
    summary: StageSummary
    cost: Cost
    given: Assumptions
    lengths: Lengths
    moments: int
    """Bytes of the optimizer's moments."""
    images: Images

    @property
    def settings(self) -> StageSettings:
        return self.recipe.stage(self.stage)

    @property
    def together(self) -> int:
        """Records that share a row behind one image."""
        return records_together(self.settings, self.lengths, self.images.typical.tokens)

    def _fill(self, image: ShownImage) -> tuple[Load, int]:
        load, passes = fill_step(self.settings, self.lengths, image.tokens, gpus=self.given.gpus)
        segments = self.recipe.run.attention == "varlen"
        return replace(load, segments=segments, encodes=self.dry_run.fusion.encodes), passes

    def plan(self, records: int | None, gpus: Mapping[str, Gpu]) -> StagePlan:
        typical, _ = self._fill(self.images.typical)
        load, passes = self._fill(self.images.largest)
        counted = typical.images * self.together
        text, targets = self.lengths.text * counted, self.lengths.targets * counted
        row = replace(typical, rows=1, text=text, targets=targets)
        forward, training = (count_flops(one, row, self.images.typical) for one in self.cost)
        flops = sum(training.values()) / counted
        quadratic = row.pairs(self.images.typical.tokens) * self.cost.training.pair
        share = share_of(self.dry_run, self.recipe, self.given.gpus)
        kept, checkpointed = (
            self._memory(share, load, again=passes > 1, checkpointed=mode) for mode in (False, True)
        )
        checkpoints = "checkpointing" in self.recipe.savings
        memory = checkpointed if checkpoints else kept
        drawn = None if records is None else self._drawn(records)
        return StagePlan(
            stage=self.stage,
            parts=tuple(
                PartPlan(
                    part=part.part,
                    mode=part.mode,
                    weights=part.trained + part.frozen,
                    trained=part.trained,
                    forward_flops=forward[part.part] / counted,
                    backward_flops=(training[part.part] - forward[part.part]) / counted,
                )
                for part in self.summary.parts
            ),
            lengths=self.lengths,
            images=self.images,
            tokens=self.images.typical.tokens + self.lengths.text,
            load=load,
            micro_batches=passes,
            global_batch_size=self.settings.global_batch_size,
            flops=flops,
            attention_flops=quadratic / counted,
            checkpointed=checkpoints,
            memory=memory,
            memory_kept=kept,
            memory_checkpointed=checkpointed,
            images_ahead=self._images_ahead(),
            feature_cache=self._feature_cache(records),
            records=records,
            steps=None if drawn is None else math.ceil(drawn / self.settings.global_batch_size),
            gpus=tuple(
                self._on(name, gpu, memory.total, checkpointed.total, flops, drawn)
                for name, gpu in gpus.items()
            ),
        )

    def _memory(self, share: Share, load: Load, *, again: bool, checkpointed: bool) -> Memory:
        with self.dry_run.showing(self.images.largest):
            found = count_bytes(self.dry_run, load, again=again, checkpointed=checkpointed)
        activations = found.activations
        if share.gradients_elsewhere:  # then memory is fullest before there are any gradients
            activations = max(activations, sum(found.kept.values()))
        numbers = FORMATS[self.recipe.precision]
        optimizer = self.moments + self.summary.trained * numbers.master
        exact = EXACT // numbers.torch_dtype().itemsize
        return Memory(
            weights=found.weights - share.weights_elsewhere,
            gradients=(found.gradients - share.gradients_elsewhere) * exact,
            optimizer=round(optimizer * share.optimizer),
            kept=found.kept,
            activations=activations + share.gathered,
        )

    def _drawn(self, records: int) -> int:
        drawn = max(1, round(records * self.settings.epochs))
        limit = self.settings.max_steps * self.settings.global_batch_size
        return min(drawn, limit) if limit else drawn

    def _images_ahead(self) -> int:
        """Return the bytes of the steps that wait or are being made (`training.dataloader`)."""
        steps = self.recipe.run.workers + 1
        dry_run = self.dry_run
        one = 3 * dry_run.side**2
        if not dry_run.sees:
            one = dry_run.vision.patches * dry_run.vision.width
        on_one_gpu = math.ceil(self.settings.global_batch_size / (self.given.gpus * self.together))
        numbers = steps * on_one_gpu * one * self.images.typical.tiles
        return round(numbers) * torch.float32.itemsize

    def _feature_cache(self, records: int | None) -> int | None:
        if self.dry_run.sees or records is None:
            return None
        tower = self.dry_run.vision
        one = tower.patches * tower.width * torch.float32.itemsize
        return round(records * self.images.typical.tiles) * one

    def _on(
        self, name: str, gpu: Gpu, total: int, checkpointed: int, flops: float, drawn: int | None
    ) -> GpuPlan:
        given = self.given
        room = gpu.memory_gib * GIB * (1 - given.headroom)
        peak = gpu.peak(FORMATS[self.recipe.precision].dtype) * TERA
        hours = None
        if drawn is not None:
            hours = drawn * flops / (peak * given.mfu * given.gpus) / 3600
        money = None if hours is None or given.price is None else hours * given.price * given.gpus
        return GpuPlan(
            gpu=name,
            fits=total <= room,
            fits_checkpointed=checkpointed <= room,
            hours=hours,
            money=money,
        )
