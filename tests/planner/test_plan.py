"""Plans: the published models' known numbers, FLOPs and weights against built models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from msgspec.structs import replace
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from laterna.errors import LaternaError
from laterna.model.build import build_from_recipe, build_on_meta
from laterna.model.cost import cost_of
from laterna.planner.assumptions import Assumptions, Lengths, fill_step
from laterna.planner.dry_run import DryRun, Load, count_cache, count_flops, resolutions
from laterna.planner.plan import plan_recipe
from laterna.recipe import ConnectorSettings, Recipe, VisionSettings, load_recipe
from laterna.records import Batch
from laterna.training.objective import Objective
from laterna.training.optimizers import Optimizers
from laterna.training.stages import apply_stage


def llava(configs: Path, side: int, kind: str) -> Recipe:
    nano = load_recipe("nano")
    uses = ConnectorSettings(kind=kind)
    return replace(
        nano,
        vision=VisionSettings(source=str(configs / f"clip-{side}")),
        connector=uses,
        instruct=replace(nano.instruct, optimizer="adamw"),  # fsdp keeps no whole matrices
        language=replace(nano.language, source=str(configs / "vicuna-7b")),
    )


@pytest.mark.parametrize(
    ("side", "kind", "patches", "connector"),
    [(224, "linear", 256, 4_198_400), (336, "mlp", 576, 20_979_712)],
)
def test_llava_s_numbers_come_from_configurations_alone(
    configs: Path, side: int, kind: str, patches: int, connector: int
) -> None:
    skeleton = build_on_meta(llava(configs, side, kind))
    count = {
        name: sum(weight.numel() for weight in part.parameters())
        for name, part in skeleton.parts().items()
    }
    assert DryRun(skeleton).image_tokens == patches
    assert (count["connector"], count["language"]) == (connector, 6_738_415_616)
    whole = sum(weight.numel() for weight in skeleton.vision.weights().values())
    assert whole == pytest.approx(303e6, rel=0.003)
    assert {weight.device.type for weight in skeleton.vision.parameters()} == {"meta"}


def test_cache_is_linear_and_attention_quadratic_in_the_tokens(configs: Path) -> None:
    skeleton = build_on_meta(llava(configs, 224, "linear"))
    dry_run, forward = DryRun(skeleton), cost_of(skeleton).forward
    # 32 layers of keys and values, 4096 wide, in float32.
    assert count_cache(dry_run, 256) == 256 * 32 * 2 * 4096 * 4
    assert count_cache(dry_run, 5329) / count_cache(dry_run, 256) == 5329 / 256
    few, many = (forward.pair * tokens**2 for tokens in (256, 5329))
    assert few == 32 * 4 * 256**2 * 4096
    assert many / few == pytest.approx(433, abs=0.5)


def test_the_table_of_resolutions_counts_whole_patches(configs: Path) -> None:
    """Of 14 px; 73 of them fit into 1024."""
    skeleton = build_on_meta(llava(configs, 336, "mlp"))
    rows = resolutions(DryRun(skeleton), cost_of(skeleton).forward)
    sides = {224: 256, 336: 576, 448: 1024, 672: 2304, 1024: 5329}
    assert {row.side: row.tokens for row in rows} == sides
    assert all(row.patches == row.tokens for row in rows)
    assert [row.cache for row in rows] == [tokens * 32 * 2 * 4096 * 4 for tokens in sides.values()]
    attention = [32 * 4 * tokens**2 * 4096 for tokens in sides.values()]
    assert [row.attention_flops for row in rows] == attention


@pytest.mark.parametrize("stage", ["align", "instruct"])
def test_flops_and_weights_equal_those_of_the_real_objective(
    tiny_recipe: Recipe, stage: str
) -> None:
    assistant = build_from_recipe(tiny_recipe)
    summary = apply_stage(assistant, tiny_recipe, stage)  # type: ignore[arg-type]
    rows, image, text, targets = 3, assistant.connector.tokens(assistant.vision.patches), 13, 7
    width = image + text
    mask = (torch.arange(width) < image).expand(rows, width)
    learned = (torch.arange(width) >= width - targets).expand(rows, width)
    batch = Batch(
        ids=("a", "b", "c"),
        input_ids_rt=torch.ones(rows, width, dtype=torch.long),
        position_ids_rt=torch.arange(width).expand(rows, width),
        loss_mask_rt=learned,
        image_mask_rt=mask,
        images=("a", "b", "c"),
        pixels_bchw=torch.zeros(rows, 3, 28, 28),
    )
    # Only its plain form of attention is counted by torch on a CPU.
    objective = Objective(assistant)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        objective(batch).backward()
    skeleton = build_on_meta(tiny_recipe)
    assert apply_stage(skeleton, tiny_recipe, stage) == summary  # type: ignore[arg-type]
    load = Load(rows=rows, images=1, text=text, targets=targets)
    counted = count_flops(cost_of(skeleton).training, load, DryRun(skeleton).image)
    assert sum(counted.values()) == counter.get_total_flops()


def test_a_step_is_filled_with_typical_records_padded_to_the_longest() -> None:
    settings = replace(
        load_recipe("nano").instruct,
        global_batch_size=16,
        pack_length=0,
        micro_batch_tokens=1000,
        max_tokens=2048,
    )
    load, passes = fill_step(settings, Lengths(text=36, targets=20, longest=90), 64, gpus=1)
    assert (load.rows, load.text, passes) == (10, 36, 2)  # 1000 tokens are full with 10 × 100
    load, passes = fill_step(settings, Lengths(text=36, targets=20, longest=90), 64, gpus=4)
    assert (load.rows, load.text, passes) == (4, 90, 1)
    with pytest.raises(LaternaError, match="longer than max_tokens = 2048"):
        fill_step(settings, Lengths(text=36, targets=20, longest=90), 2048, gpus=1)


def test_shared_images_stand_once_before_all_their_records() -> None:
    nano = load_recipe("nano").align
    align = replace(nano, global_batch_size=60, pack_length=0, micro_batch_tokens=2000)
    lengths = Lengths(text=20, targets=15, longest=50, per_image=5)
    load, passes = fill_step(align, lengths, 64, gpus=1)
    # 12 families of 64 + 5 × 20 tokens, padded to one with a record of 50 while 2000 hold them.
    assert load == Load(rows=12, images=1, text=2000 // 12 - 64, targets=75, records=5)
    assert passes == 1
    load, passes = fill_step(replace(align, micro_batch_tokens=110), lengths, 64, gpus=1)
    assert (load.rows, load.text, load.targets, passes) == (1, 46, 30, 30)  # two records a row
    load, passes = fill_step(replace(align, shared_prefix=False), lengths, 64, gpus=1)
    assert load == Load(rows=23, images=1, text=20 + 2, targets=15)
    assert passes == 3


def test_shared_images_make_a_record_cheaper_by_what_they_share(tiny_recipe: Recipe) -> None:
    align = replace(tiny_recipe.align, shared_prefix=True, global_batch_size=20)
    lengths = Lengths(text=10, targets=8, longest=10, per_image=5)
    alone, shared = (
        plan_recipe(
            replace(tiny_recipe, align=one),
            Assumptions(),
            stages=["align"],
            lengths={"align": lengths},
        ).stages[0]
        for one in (replace(align, shared_prefix=False), align)
    )
    vision, _, language = (part.forward_flops for part in alone.parts)
    assert shared.parts[0].forward_flops == vision / 5
    assert shared.parts[2].forward_flops < language
    assert shared.images_ahead == alone.images_ahead / 5


def test_muon_remembers_one_number_a_weight_of_a_matrix(tiny_recipe: Recipe) -> None:
    recipe = replace(tiny_recipe, instruct=replace(tiny_recipe.instruct, optimizer="muon"))
    adamw, muon = (
        plan_recipe(one, Assumptions(), stages=["instruct"]).stages[0].memory.optimizer
        for one in (tiny_recipe, recipe)
    )
    assistant = build_from_recipe(recipe)
    apply_stage(assistant, recipe, "instruct")
    optimizers = Optimizers(assistant, recipe.instruct)
    weights = [weight for weight in assistant.parameters() if weight.requires_grad]
    held = [one for weight in weights for one in optimizers.moments(weight).values()]
    assert muon == sum(one.nbytes for one in held) < adamw
    assert adamw == 8 * sum(weight.numel() for weight in weights)


def test_muon_under_fsdp_is_refused_as_training_refuses_it(tiny_recipe: Recipe) -> None:
    recipe = replace(
        tiny_recipe,
        run=replace(tiny_recipe.run, engine="fsdp"),
        instruct=replace(tiny_recipe.instruct, optimizer="muon"),
    )
    with pytest.raises(LaternaError, match='"muon" needs whole weights, which fsdp does not'):
        plan_recipe(recipe, Assumptions(gpus=2), gpu="L4")
    plan_recipe(recipe, Assumptions(gpus=2), stages=["align"], gpu="L4")
    plan_recipe(recipe, Assumptions(gpus=1), stages=["instruct"], gpu="L4")


def test_4_bits_are_not_planned(tiny_recipe: Recipe) -> None:
    packed = replace(tiny_recipe, language=replace(tiny_recipe.language, quantize="4bit"))
    with pytest.raises(LaternaError, match="models in 4 bits cannot be planned yet"):
        plan_recipe(packed, Assumptions(), gpu="L4")


def test_hours_and_money_follow_from_flops_rate_and_price(tiny_recipe: Recipe) -> None:
    given = Assumptions(gpus=2, mfu=0.5, price=3.0)
    lengths = {"align": Lengths(text=10, targets=8, longest=20)}
    plan = plan_recipe(
        tiny_recipe,
        given,
        stages=["align"],
        records={"align": 10**9},
        lengths=lengths,  # type: ignore[arg-type]
        gpu="A100-80GB",
    )
    [stage], [row] = plan.stages, plan.stages[0].gpus
    assert row.hours == pytest.approx(1e9 * stage.flops / (19.5e12 * 0.5 * 2) / 3600)
    assert row.money == pytest.approx(row.hours * 2 * 3)
    assert (row.fits, row.fits_checkpointed) == (True, True)
    assert stage.memory.optimizer == 8 * stage.parts[1].trained


def test_fsdp_leaves_elsewhere_what_ddp_holds_everywhere(configs: Path) -> None:
    recipe = llava(configs, 336, "mlp").with_savings("bf16")
    given = Assumptions(gpus=8)
    ddp, fsdp = (
        plan_recipe(
            replace(recipe, run=replace(recipe.run, engine=engine)), given, stages=["instruct"]
        )
        .stages[0]
        .memory
        for engine in ("ddp", "fsdp")
    )
    trained = 6_738_415_616 + 20_979_712
    assert (ddp.optimizer, ddp.gradients) == (12 * trained, 4 * trained)
    assert fsdp.optimizer == ddp.optimizer // 8
    assert fsdp.gradients == pytest.approx(ddp.gradients / 8, rel=1e-6)
    assert fsdp.weights < ddp.weights / 6


def test_the_plan_follows_the_recipes_savings(tiny_recipe: Recipe) -> None:
    saving = tiny_recipe.with_savings("bf16", "checkpointing")
    plain, half = (
        plan_recipe(one, Assumptions(), stages=["instruct"]) for one in (tiny_recipe, saving)
    )
    assert (plain.precision, half.precision) == ("float32", "bf16")
    assert half.answering_weights == plain.answering_weights / 2
    for stage, other in zip(plain.stages, half.stages, strict=True):
        assert stage.memory == stage.memory_kept
        assert other.memory == other.memory_checkpointed
        assert other.memory_kept.activations < stage.memory_kept.activations
        assert other.memory.gradients == stage.memory.gradients
        assert other.memory.weights < 0.51 * stage.memory.weights
        assert other.flops == stage.flops


def test_lora_and_checkpointing_hold_less(tiny_recipe: Recipe) -> None:
    part = replace(tiny_recipe.instruct.language, mode="lora")
    recipe = replace(tiny_recipe, instruct=replace(tiny_recipe.instruct, language=part))
    full, lora = (
        plan_recipe(one, Assumptions(), stages=["instruct"]).stages[0]
        for one in (tiny_recipe, recipe)
    )
    assert lora.parts[2].trained != full.parts[2].trained
    assert full.memory_checkpointed.activations < full.memory.activations


def test_a_source_that_cannot_be_had_says_what_to_do(tiny_recipe: Recipe, tmp_path: Path) -> None:
    vision = replace(tiny_recipe.vision, source=str(tmp_path))
    with pytest.raises(LaternaError, match=r"Planning needs its config\.json and no weights"):
        build_on_meta(replace(tiny_recipe, vision=vision))
    with pytest.raises(LaternaError, match="known are: A100-40GB"):
        plan_recipe(tiny_recipe, Assumptions(), gpu="A100")
    with pytest.raises(LaternaError, match="--mfu 2"):
        Assumptions(mfu=2)
