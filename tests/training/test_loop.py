from __future__ import annotations

import math

import msgspec
import pytest
import torch

from laterna.data.batches import collate
from laterna.errors import LaternaError
from laterna.model.assistant import Assistant, load_assistant_from
from laterna.recipe import Recipe
from laterna.records import Batch, Pack, Sample
from laterna.training.loop import StepFigures, lr_factor, train_steps
from laterna.training.stages import apply_stage


def text_batch(number: int) -> Batch:
    ids = (1, *range(10 + number, 22 + number))
    targets = (False,) * 4 + (True,) * 9
    sample = Sample(id=f"r{number}", input_ids=ids, targets=targets, picture_slots=())
    return collate([Pack(samples=(sample,))])


def run(assistant: Assistant, recipe: Recipe, steps: int) -> list[StepFigures]:
    apply_stage(assistant, recipe.instruct)
    made = [[text_batch(step % 3), text_batch(3 + step % 2)] for step in range(steps)]
    return list(train_steps(assistant, recipe.instruct, made, total=steps))


def test_the_schedule_rises_linearly_and_falls_as_a_cosine() -> None:
    factors = [lr_factor(step, 103, 0.03) for step in range(103)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[4] == 1.0
    middle = 4 + (103 - 4) / 2
    assert lr_factor(math.floor(middle), 103, 0.03) == pytest.approx(0.5, abs=0.01)
    assert factors[4:] == sorted(factors[4:], reverse=True)
    assert 0 < factors[-1] < 0.001
    assert lr_factor(0, 10, 0.0) == 1.0


def test_the_same_seed_gives_the_same_losses_bit_for_bit(tiny_recipe: Recipe) -> None:
    runs = [run(load_assistant_from(tiny_recipe), tiny_recipe, 6) for _ in range(2)]
    first, second = [[(step.loss, step.grad_norm) for step in steps] for steps in runs]
    assert first == second
    assert first[-1][0] < 0.8 * first[0][0]


def test_a_step_is_adamw_with_clipped_gradients(
    tiny_assistant: Assistant, tiny_recipe: Recipe
) -> None:
    stage = msgspec.structs.replace(tiny_recipe.instruct, clip=0.5, warmup=0.0)
    apply_stage(tiny_assistant, stage)
    before = {name: weight.detach().clone() for name, weight in tiny_assistant.named_parameters()}
    [figures] = train_steps(tiny_assistant, stage, [[text_batch(0)]], total=1)
    assert (figures.step, figures.target_tokens, figures.tokens) == (1, 9, 13)
    assert figures.grad_norm > 0.5
    assert figures.lr == 1e-2
    # After one step AdamW has moved every weight by lr × g / (|g| + eps): by lr, or not at all.
    for name, weight in tiny_assistant.named_parameters():
        moved = (weight.detach() - before[name]).abs().max().item()
        expected = {"vision": 0.0, "connector": 0.0, "language": 5e-3}[name.partition(".")[0]]
        assert moved == pytest.approx(expected, rel=1e-2), name


def test_a_loss_that_is_not_finite_names_the_records_and_changes_nothing(
    tiny_assistant: Assistant, tiny_recipe: Recipe
) -> None:
    stage = tiny_recipe.instruct
    apply_stage(tiny_assistant, stage)
    with torch.no_grad():
        tiny_assistant.language.lm_head.weight[5, 0] = torch.nan
    before = tiny_assistant.language.model.norm.weight.detach().clone()
    with pytest.raises(LaternaError, match=r"step 1: loss nan.* r4, r0; lower the learning rate"):
        list(train_steps(tiny_assistant, stage, [[text_batch(4), text_batch(0)]], total=1))
    assert torch.equal(tiny_assistant.language.model.norm.weight, before)
