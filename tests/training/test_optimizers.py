from __future__ import annotations

import math
import sys

import msgspec
import pytest
import torch

from laterna.errors import LaternaError
from laterna.model.vlm import VisionLanguageModel
from laterna.recipe import Recipe
from laterna.training import optimizers
from laterna.training.optimizers import BESIDE_MUON, BLOCK, Optimizers, moment_bytes
from laterna.training.stages import apply_stage


def muon(assistant: VisionLanguageModel, recipe: Recipe) -> Optimizers:
    stage = msgspec.structs.replace(recipe.instruct, optimizer="muon")
    recipe = msgspec.structs.replace(recipe, instruct=stage)
    apply_stage(assistant, recipe, "instruct")
    return Optimizers(assistant, stage)


def names_of(assistant: VisionLanguageModel, one: torch.optim.Optimizer) -> set[str]:
    held = {id(weight) for group in one.param_groups for weight in group["params"]}
    return {name for name, weight in assistant.named_parameters() if id(weight) in held}


def test_adamw_alone_holds_every_weight_that_trains(
    tiny_assistant: VisionLanguageModel, tiny_recipe: Recipe
) -> None:
    apply_stage(tiny_assistant, tiny_recipe, "instruct")
    found = Optimizers(tiny_assistant, tiny_recipe.instruct)
    (adamw,) = found.all
    trained = {name for name, weight in tiny_assistant.named_parameters() if weight.requires_grad}
    assert names_of(tiny_assistant, adamw) == trained


def test_muon_takes_the_matrices_but_no_embedding_and_no_head(
    tiny_assistant: VisionLanguageModel, tiny_recipe: Recipe
) -> None:
    found = muon(tiny_assistant, tiny_recipe)
    matrices, others = (names_of(tiny_assistant, one) for one in found.all)
    trained = {name for name, weight in tiny_assistant.named_parameters() if weight.requires_grad}
    assert not matrices & others
    assert matrices | others == trained
    assert "language.model.layers.0.mlp.up_proj.weight" in matrices
    assert {"language.model.embed_tokens.weight", "language.model.norm.weight"} <= others
    assert not {name for name in matrices if "bias" in name or "norm" in name or "head" in name}


def test_adamw_beside_muon_is_slower(
    tiny_assistant: VisionLanguageModel, tiny_recipe: Recipe
) -> None:
    found = muon(tiny_assistant, tiny_recipe)
    of_muon, of_adamw = (sorted({group["lr"] for group in one.param_groups}) for one in found.all)
    assert of_muon == [5e-3, 1e-2]
    assert of_adamw == pytest.approx([5e-3 * BESIDE_MUON, 1e-2 * BESIDE_MUON])


def test_a_step_of_muon_is_orthogonal(
    tiny_assistant: VisionLanguageModel, tiny_recipe: Recipe
) -> None:
    found = muon(tiny_assistant, tiny_recipe)
    weight = dict(tiny_assistant.named_parameters())["language.model.layers.0.mlp.up_proj.weight"]
    before = weight.detach().clone()
    weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    found.step()
    moved = weight.detach() - before
    values = torch.linalg.svdvals(moved)
    assert values.max() / values.min() < 3, "a random gradient's are further apart"
    grads = torch.linalg.svdvals(weight.grad)
    assert grads.max() / grads.min() > 3
    # as long as AdamW's first step, by and by: 0.2 of the rate for each weight
    rate = tiny_recipe.instruct.language.lr
    assert moved.square().mean().sqrt().item() == pytest.approx(0.2 * rate, rel=0.25)


@pytest.mark.parametrize("shape", [(24, 24), (16, 40), (40, 16)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_muon_moves_as_torchs_does(
    shape: tuple[int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optimizers, "fast_dtype", lambda _device: dtype)
    random = torch.Generator().manual_seed(1)
    first = torch.randn(shape, generator=random)
    ours, theirs = (torch.nn.Parameter(first.clone()) for _ in range(2))
    settings = {"lr": 0.02, "weight_decay": 0.1, "adjust_lr_fn": "match_rms_adamw"}
    both = [
        (ours, optimizers.Muon([ours], **settings)),
        (theirs, torch.optim.Muon([theirs], **settings)),
    ]
    for _ in range(4):
        gradient = torch.randn(shape, generator=random)
        for weight, one in both:
            weight.grad = gradient.clone()
            one.step()
    moved = (theirs - first).norm()
    # torch's is in bfloat16: the same number for number, and in float32 what that rounds
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0 if dtype is torch.bfloat16 else 1e-2)
    assert (ours - theirs).norm() <= (0 if dtype is torch.bfloat16 else 0.02 * moved)
    assert both[0][1].state_dict()["state"].keys() == both[1][1].state_dict()["state"].keys()
    torch.testing.assert_close(
        both[0][1].state[ours]["momentum_buffer"], both[1][1].state[theirs]["momentum_buffer"]
    )


def test_what_is_remembered_is_made_before_the_first_step(
    tiny_assistant: VisionLanguageModel, tiny_recipe: Recipe
) -> None:
    found = muon(tiny_assistant, tiny_recipe)
    weights = dict(tiny_assistant.named_parameters())
    matrix = weights["language.model.layers.0.mlp.up_proj.weight"]
    table = weights["language.model.embed_tokens.weight"]
    assert set(found.moments(matrix)) == {"momentum_buffer"}
    assert set(found.moments(table)) == {"exp_avg", "exp_avg_sq"}
    found.set_steps(matrix, 7.0)
    found.set_steps(table, 7.0)
    assert float(found.all[1].state[table]["step"]) == 7.0


@pytest.fixture
def eighth(tiny_assistant: VisionLanguageModel, tiny_recipe: Recipe) -> Optimizers:
    pytest.importorskip("bitsandbytes")
    stage = msgspec.structs.replace(tiny_recipe.instruct, optimizer="adamw8bit")
    apply_stage(tiny_assistant, msgspec.structs.replace(tiny_recipe, instruct=stage), "instruct")
    return Optimizers(tiny_assistant, stage)


def test_adamw_in_8_bits_remembers_a_quarter(
    eighth: Optimizers, tiny_assistant: VisionLanguageModel, tiny_recipe: Recipe
) -> None:
    weights = dict(tiny_assistant.named_parameters())
    table, norm = weights["language.lm_head.weight"], weights["language.model.norm.weight"]
    found = eighth.moments(table)
    assert {name: (one.dtype, one.numel()) for name, one in found.items()} == {
        "state1": (torch.uint8, table.numel()),
        "state2": (torch.uint8, table.numel()),
        "absmax1": (torch.float32, math.ceil(table.numel() / BLOCK)),
        "absmax2": (torch.float32, math.ceil(table.numel() / BLOCK)),
    }
    assert {one.dtype for one in eighth.moments(norm).values()} == {torch.float32}
    trained = [weight for weight in weights.values() if weight.requires_grad]
    held = sum(one.nbytes for weight in trained for one in eighth.moments(weight).values())
    stage = msgspec.structs.replace(tiny_recipe.instruct, optimizer="adamw8bit")
    assert moment_bytes(tiny_assistant, stage) == held


def test_adamw_in_8_bits_moves_as_adamw_does(
    eighth: Optimizers, tiny_assistant: VisionLanguageModel
) -> None:
    weight = dict(tiny_assistant.named_parameters())["language.lm_head.weight"]
    other = torch.nn.Parameter(weight.detach().clone())
    adamw = torch.optim.AdamW([other], lr=5e-3, weight_decay=0.0)
    random = torch.Generator().manual_seed(0)
    before = weight.detach().clone()
    for _ in range(5):
        weight.grad = torch.randn(weight.shape, generator=random)
        other.grad = weight.grad.clone()
        eighth.step()
        adamw.step()
    moved, expected = weight.detach() - before, other.detach() - before
    apart = (moved - expected).norm() / expected.norm()
    assert 0 < apart < 0.03


def test_8_bits_without_their_package_say_what_to_install(
    tiny_assistant: VisionLanguageModel, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    stage = msgspec.structs.replace(tiny_recipe.instruct, optimizer="adamw8bit")
    apply_stage(tiny_assistant, tiny_recipe, "instruct")
    with pytest.raises(LaternaError, match=r"needs the package bitsandbytes; .*laterna\[bits"):
        Optimizers(tiny_assistant, stage)
