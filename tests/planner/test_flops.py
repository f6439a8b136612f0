"""FLOPs of a step: what the planner counts, and what torch counts on the step itself."""

from __future__ import annotations

import msgspec
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from laterna.data.batches import collate
from laterna.model.attention.varlen import use_varlen_attention
from laterna.model.build import build_on_meta
from laterna.model.cost import StepCost, cost_of, count_cost
from laterna.model.vlm import VisionLanguageModel
from laterna.planner.dry_run import DryRun, Load, count_flops
from laterna.recipe import LoraSettings, PartSettings, Recipe
from laterna.records import IMAGE_TOKEN_INDEX, Batch, Pack, Sample
from laterna.training.objective import Objective
from laterna.training.stages import apply_stage

FULL, LORA = PartSettings(mode="full", lr=1e-3), PartSettings(mode="lora", lr=1e-3)
FROZEN, LAST = PartSettings(), PartSettings(mode="last-1", lr=1e-3)


def planned(skeleton: VisionLanguageModel, load: Load) -> float:
    image = DryRun(skeleton).image
    return sum(count_flops(cost_of(skeleton).training, load, image).values())


def staged(recipe: Recipe, **parts: PartSettings) -> Recipe:
    stage = msgspec.structs.replace(recipe.instruct, **parts)
    return msgspec.structs.replace(recipe, instruct=stage, lora=LoraSettings(r=4, alpha=8))


def sample(text: int) -> Sample:
    return Sample(
        id=f"r{text}",
        input_ids=(1, IMAGE_TOKEN_INDEX, *range(10, 10 + text)),
        targets=(False,) * (text - 1) + (True,) * 3,
        image_slots=(1,),
        images=("p.png",),
        image_tokens=(4,),
    )


def batch(texts: tuple[int, ...]) -> Batch:
    """Rows of one image of four tokens and some text, its last three tokens learned."""
    samples = [sample(text) for text in texts]
    pixels = torch.zeros(len(texts), 3, 28, 28)
    made = collate([Pack(samples=(one,)) for one in samples])
    return msgspec.structs.replace(made, pixels_bchw=pixels)


@pytest.mark.parametrize(
    ("vision", "connector", "language"),
    [
        (FROZEN, FULL, FROZEN),
        (FROZEN, FULL, FULL),
        (FULL, FULL, FULL),
        (FROZEN, FROZEN, FULL),
        (FROZEN, FULL, LORA),
        (LAST, FULL, LAST),
    ],
)
def test_the_cost_is_what_torch_counts_on_the_step(
    tiny_assistant: VisionLanguageModel,
    tiny_recipe: Recipe,
    vision: PartSettings,
    connector: PartSettings,
    language: PartSettings,
) -> None:
    recipe = staged(tiny_recipe, vision=vision, connector=connector, language=language)
    apply_stage(tiny_assistant, recipe, "instruct")
    cost = count_cost(tiny_assistant)
    assert cost is not None
    # Attention as plain products: what the fused kernel's backward makes once more is no work.
    for model in (tiny_assistant.language, tiny_assistant.vision.model):
        model.set_attn_implementation("eager")
    one = batch((9, 9))
    objective = Objective(tiny_assistant)
    with FlopCounterMode(display=False) as counter:
        objective(one).backward()
    assert cost.of([one], length=2 * 14) == counter.get_total_flops()


def test_the_cost_is_what_the_planner_says(
    tiny_assistant: VisionLanguageModel, tiny_recipe: Recipe
) -> None:
    skeleton = build_on_meta(tiny_recipe)
    for stage in ("align", "instruct"):
        apply_stage(tiny_assistant, tiny_recipe, stage)
        apply_stage(skeleton, tiny_recipe, stage)
        cost = count_cost(tiny_assistant)
        load = Load(rows=2, images=1, text=10, targets=3)
        assert cost is not None
        assert cost.of([batch((9, 9))], length=28) == planned(skeleton, load)


def test_by_segments_a_row_costs_what_its_samples_cost_alone(
    tiny_assistant: VisionLanguageModel, tiny_recipe: Recipe
) -> None:
    """Two images in one row as in two, by the planner, by the meter and by torch."""
    apply_stage(tiny_assistant, tiny_recipe, "instruct")
    apart = batch((9, 9))
    samples = [sample(text) for text in (9, 9)]
    row = collate([Pack(samples=tuple(samples))])
    row = msgspec.structs.replace(row, pixels_bchw=apart.pixels_bchw)
    under_a_mask = count_cost(tiny_assistant)
    use_varlen_attention(tiny_assistant.language)
    cost = count_cost(tiny_assistant)
    assert cost is not None
    assert under_a_mask is not None
    tiny_assistant.vision.model.set_attn_implementation("eager")
    objective = Objective(tiny_assistant)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        objective(row).backward()
    assert cost.of([row], length=28) == counter.get_total_flops()
    assert cost.of([row], length=28) == cost.of([apart], length=28)
    assert under_a_mask.of([row], length=28) > under_a_mask.of([apart], length=28)
    skeleton = build_on_meta(tiny_recipe)
    apply_stage(skeleton, tiny_recipe, "instruct")
    joined = Load(rows=1, images=2, text=20, targets=6, segments=True)
    assert cost.of([row], length=28) == planned(skeleton, joined)


def test_what_siblings_share_is_seen_by_each() -> None:
    load = Load(rows=1, images=2, text=2 * 3 * 10, targets=6, records=3, segments=True)
    computed = 2 * (4 * 4 + 3 * 10 * (4 + 10))
    assert load.keys(4) == 2 * (4 + 3 * (10 + 4))
    assert load.pairs(4) == computed
    assert msgspec.structs.replace(load, segments=False).pairs(4) == (2 * 4 + 60) ** 2


def test_padding_is_no_work_and_cached_features_are_not_seen() -> None:
    cost = StepCost(vision=1e6, connector=1e5, token=100, pair=1, target=10)
    one = batch((9, 5))
    assert one.input_ids_rt.shape == (2, 14)
    assert cost.of([one], length=24) == 2 * 1.1e6 + 24 * (100 + 14) + 6 * 10
    features = msgspec.structs.replace(one, pixels_bchw=None, features_bnd=torch.zeros(2, 4, 24))
    assert cost.of([features], length=24) == 2 * 1e5 + 24 * (100 + 14) + 6 * 10
    assert cost.of([], length=0) == 0


def test_counting_leaves_the_assistant_as_it_was(
    tiny_assistant: VisionLanguageModel, tiny_recipe: Recipe
) -> None:
    apply_stage(tiny_assistant, tiny_recipe, "instruct")
    before = {name: weight.detach().clone() for name, weight in tiny_assistant.named_parameters()}
    drawn = torch.get_rng_state()
    assert count_cost(tiny_assistant) is not None
    assert torch.equal(torch.get_rng_state(), drawn)
    for name, weight in tiny_assistant.named_parameters():
        assert weight.grad is None
        assert torch.equal(weight, before[name])


def test_a_model_that_looks_at_numbers_has_no_known_cost(
    tiny_assistant: VisionLanguageModel, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply_stage(tiny_assistant, tiny_recipe, "instruct")
    connect = tiny_assistant.connector.forward
    monkeypatch.setattr(
        tiny_assistant.connector, "forward", lambda x: connect(x[: int(x.sum() < 9)])
    )
    assert count_cost(tiny_assistant) is None
