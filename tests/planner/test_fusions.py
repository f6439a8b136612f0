"""What an image costs under each fusion: positions, cache, what is kept beside it, FLOPs, by value.

The tiny models: 4 image tokens, a Llama of 2 layers with 2 key-value heads of 8, 32 wide; under
cross-attention a block before each layer with 2 heads of 8.
"""

from __future__ import annotations

import msgspec
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from laterna.data.batches import collate
from laterna.model.build import build_from_recipe, build_on_meta
from laterna.model.cost import cost_of, count_cost
from laterna.planner.assumptions import Assumptions
from laterna.planner.dry_run import DryRun, Load, count_cache, count_flops, resolutions
from laterna.planner.plan import plan_recipe
from laterna.recipe import PartSettings, Recipe
from laterna.records import IMAGE_TOKEN_INDEX, Batch, Pack, Sample
from laterna.training.objective import Objective
from laterna.training.stages import apply_stage

from ..tiny import flamingo

FLOAT = 4
CACHE = 2 * 2 * 2 * 8 * FLOAT
"""Bytes of a position: keys and values, layers, heads, width."""
BESIDE = 2 * 2 * 2 * 8 * FLOAT
"""Bytes of an image's token beside it: keys and values, blocks, heads, width."""
FULL, FROZEN = PartSettings(mode="full", lr=1e-3), PartSettings()


def album(images: int, text: int, positions: int) -> Sample:
    """Images, each before its share of the text, the last two tokens of each learned."""
    ids: list[int] = []
    targets: list[bool] = []
    slots = []
    for _ in range(images):
        slots.append(len(ids))
        ids += [IMAGE_TOKEN_INDEX, *range(10, 10 + text)]
        targets += [False] * (text - 1) + [True] * 2
    return Sample(
        id="album",
        input_ids=tuple(ids),
        targets=tuple(targets),
        image_slots=tuple(slots),
        images=tuple(f"{number}.png" for number in range(images)),
        image_tokens=(positions,) * images,
    )


def batch_of(images: int, text: int, positions: int) -> Batch:
    made = collate([Pack(samples=(album(images, text, positions),))])
    return msgspec.structs.replace(made, pixels_bchw=torch.zeros(images, 3, 28, 28))


def recipe_of(fusion: str, tiny_recipe: Recipe) -> Recipe:
    return tiny_recipe if fusion == "prefix" else flamingo(tiny_recipe, gate=1.0)


@pytest.mark.parametrize(("fusion", "positions"), [("prefix", 4), ("cross_attention", 1)])
@pytest.mark.parametrize("language", [FROZEN, FULL])
@pytest.mark.parametrize("images", [1, 3])
def test_flops_are_what_torch_counts_on_a_step_and_the_plan_says(
    fusion: str, positions: int, language: PartSettings, images: int, tiny_recipe: Recipe
) -> None:
    recipe = recipe_of(fusion, tiny_recipe)
    stage = msgspec.structs.replace(recipe.instruct, language=language)
    recipe = msgspec.structs.replace(recipe, instruct=stage)
    model, skeleton = build_from_recipe(recipe), build_on_meta(recipe)
    for one in (model, skeleton):
        apply_stage(one, recipe, "instruct")
    cost = count_cost(model)
    assert cost is not None
    batch = batch_of(images, 9, positions)
    length = images * (positions + 9)
    assert batch.input_ids_rt.shape == (1, length)
    for part in (model.language, model.vision.model):
        part.set_attn_implementation("eager")
    assert model.plain_head  # asked for before anything is counted: it runs the model once
    objective = Objective(model)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        objective(batch).backward()
    assert cost.of([batch], length=length) == counter.get_total_flops()
    load = Load(rows=1, images=images, text=images * 9, targets=images * 2)
    planned = count_flops(cost_of(skeleton).training, load, DryRun(skeleton).image)
    assert sum(planned.values()) == counter.get_total_flops()


@pytest.mark.parametrize("fusion", ["prefix", "cross_attention"])
@torch.no_grad()
def test_the_planned_caches_are_those_that_an_answer_leaves(
    fusion: str, tiny_recipe: Recipe
) -> None:
    recipe = recipe_of(fusion, tiny_recipe)
    model, dry_run = build_from_recipe(recipe), DryRun(build_on_meta(recipe))
    for images in (1, 2, 4):
        ids = [IMAGE_TOKEN_INDEX, 10, 11, 12] * images
        tokens = model.connect(torch.randn(images, 4, 24))
        inputs = model.fusion.generation_inputs(model.language, [ids], tokens)
        media = inputs.pop("media", None)
        with model.fusion.beside(media):
            left = model.language(**inputs, use_cache=True).past_key_values
        cache = sum(one.keys.nbytes + one.values.nbytes for one in left.layers)
        positions = 4 if fusion == "prefix" else 1
        row = images * (positions + 3)
        assert cache == row * CACHE
        assert count_cache(dry_run, row) == cache
        kept = [] if media is None else [one for pair in media.kept.values() for one in pair]
        beside = sum(one.nbytes for one in kept)
        assert beside == (0 if fusion == "prefix" else images * 4 * BESIDE)
        assert dry_run.beside_bytes(images * dry_run.image.beside) == beside


def test_a_plan_says_what_an_image_takes(tiny_recipe: Recipe) -> None:
    plans = {
        fusion: plan_recipe(recipe_of(fusion, tiny_recipe), Assumptions())
        for fusion in ("prefix", "cross_attention")
    }
    prefix, cross = plans["prefix"], plans["cross_attention"]
    assert (prefix.image_tokens, cross.image_tokens) == (4, 1)
    assert (prefix.answering_beside, cross.answering_beside) == (0, 4 * BESIDE)
    assert prefix.answering_cache == cross.answering_cache == 2048 * CACHE
    text = prefix.stages[1].lengths.text
    assert [one.stages[1].tokens for one in (prefix, cross)] == [4 + text, 1 + text]


def test_a_larger_image_takes_no_more_of_the_row_but_more_beside_it(tiny_recipe: Recipe) -> None:
    """With an mlp before the blocks: tokens beside grow with the area, the row does not."""
    recipe = flamingo(tiny_recipe)
    recipe = msgspec.structs.replace(recipe, connector=tiny_recipe.connector)
    skeleton = build_on_meta(recipe)
    rows = resolutions(DryRun(skeleton), cost_of(skeleton).forward)
    assert {row.side: (row.patches, row.tokens) for row in rows if row.side < 400} == {
        28: (4, 1),
        224: (256, 1),
        336: (576, 1),
    }
    for row in rows:
        assert row.cache == CACHE + row.patches * BESIDE
