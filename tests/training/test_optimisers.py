from __future__ import annotations

import msgspec
import pytest
import torch

from laterna.model.assistant import Assistant
from laterna.recipe import Recipe
from laterna.training.optimisers import BESIDE_MUON, Optimisers
from laterna.training.stages import apply_stage


def muon(assistant: Assistant, recipe: Recipe) -> Optimisers:
    stage = msgspec.structs.replace(recipe.instruct, optimiser="muon")
    recipe = msgspec.structs.replace(recipe, instruct=stage)
    apply_stage(assistant, recipe, "instruct")
    return Optimisers(assistant, stage)


def names_of(assistant: Assistant, one: torch.optim.Optimizer) -> set[str]:
    held = {id(weight) for group in one.param_groups for weight in group["params"]}
    return {name for name, weight in assistant.named_parameters() if id(weight) in held}


def test_adamw_alone_holds_every_weight_that_trains(
    tiny_assistant: Assistant, tiny_recipe: Recipe
) -> None:
    apply_stage(tiny_assistant, tiny_recipe, "instruct")
    found = Optimisers(tiny_assistant, tiny_recipe.instruct)
    (adamw,) = found.all
    trained = {name for name, weight in tiny_assistant.named_parameters() if weight.requires_grad}
    assert names_of(tiny_assistant, adamw) == trained


def test_muon_takes_the_matrices_but_no_embedding_and_no_head(
    tiny_assistant: Assistant, tiny_recipe: Recipe
) -> None:
    found = muon(tiny_assistant, tiny_recipe)
    matrices, others = (names_of(tiny_assistant, one) for one in found.all)
    trained = {name for name, weight in tiny_assistant.named_parameters() if weight.requires_grad}
    assert not matrices & others
    assert matrices | others == trained
    assert "language.model.layers.0.mlp.up_proj.weight" in matrices
    assert {"language.model.embed_tokens.weight", "language.model.norm.weight"} <= others
    assert not {name for name in matrices if "bias" in name or "norm" in name or "head" in name}


def test_adamw_beside_muon_is_slower(tiny_assistant: Assistant, tiny_recipe: Recipe) -> None:
    found = muon(tiny_assistant, tiny_recipe)
    of_muon, of_adamw = (sorted({group["lr"] for group in one.param_groups}) for one in found.all)
    assert of_muon == [5e-3, 1e-2]
    assert of_adamw == pytest.approx([5e-3 * BESIDE_MUON, 1e-2 * BESIDE_MUON])


def test_a_step_of_muon_is_orthogonal(tiny_assistant: Assistant, tiny_recipe: Recipe) -> None:
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


def test_what_is_remembered_is_made_before_the_first_step(
    tiny_assistant: Assistant, tiny_recipe: Recipe
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
