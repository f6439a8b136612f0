from __future__ import annotations

import math
from collections.abc import Iterator

import msgspec
import pytest
import torch

from laterna.data.batches import collate
from laterna.errors import LaternaError
from laterna.model.build import build_from_recipe
from laterna.model.vlm import VisionLanguageModel
from laterna.recipe import Recipe, RunSettings
from laterna.records import Batch, Pack, Sample
from laterna.training.dataloader import FAULTS, Step
from laterna.training.loop import train_steps
from laterna.training.stages import apply_stage
from laterna.training.throughput import StepFigures
from laterna.training.train_state import Progress, TrainState, lr_factor


def text_batch(number: int) -> Batch:
    ids = (1, *range(10 + number, 22 + number))
    targets = (False,) * 4 + (True,) * 9
    sample = Sample(id=f"r{number}", input_ids=ids, targets=targets, image_slots=())
    return collate([Pack(samples=(sample,))])


def step(number: int, *batches: Batch) -> Step:
    return Step(number=number, batches=batches, length=13 * len(batches), faulty={})


def train_state(assistant: VisionLanguageModel, recipe: Recipe, total: int) -> TrainState:
    apply_stage(assistant, recipe, "instruct")
    return TrainState(assistant, recipe.instruct, total=total)


def run(assistant: VisionLanguageModel, recipe: Recipe, steps: int) -> list[StepFigures]:
    made = [
        step(number, text_batch(number % 3), text_batch(3 + number % 2)) for number in range(steps)
    ]
    return list(train_steps(train_state(assistant, recipe, steps), made, recipe.run, seed=0))


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
    runs = [run(build_from_recipe(tiny_recipe), tiny_recipe, 6) for _ in range(2)]
    first, second = [[(one.loss, one.grad_norm) for one in steps] for steps in runs]
    assert first == second
    assert first[-1][0] < 0.8 * first[0][0]


def test_a_step_is_adamw_with_clipped_gradients(
    tiny_assistant: VisionLanguageModel, tiny_recipe: Recipe
) -> None:
    stage = msgspec.structs.replace(tiny_recipe.instruct, max_grad_norm=0.5, warmup_ratio=0.0)
    learns = train_state(tiny_assistant, msgspec.structs.replace(tiny_recipe, instruct=stage), 1)
    before = {name: weight.detach().clone() for name, weight in tiny_assistant.named_parameters()}
    [figures] = train_steps(learns, [step(0, text_batch(0))], tiny_recipe.run, seed=0)
    assert (figures.step, figures.target_tokens, figures.tokens) == (1, 9, 13)
    assert figures.grad_norm > 0.5
    assert figures.lr == 1e-2
    # After one step AdamW has moved every weight by lr × g / (|g| + eps): by lr, or not at all.
    for name, weight in tiny_assistant.named_parameters():
        moved = (weight.detach() - before[name]).abs().max().item()
        expected = {"vision": 0.0, "connector": 0.0, "language": 5e-3}[name.partition(".")[0]]
        assert moved == pytest.approx(expected, rel=1e-2), name


def test_a_step_that_is_not_finite_is_skipped_and_counted_and_changes_nothing(
    tiny_assistant: VisionLanguageModel, tiny_recipe: Recipe
) -> None:
    learns = train_state(tiny_assistant, tiny_recipe, 6)
    before = tiny_assistant.language.model.norm.weight.detach().clone()
    head = tiny_assistant.language.lm_head.weight
    good = head.detach().clone()
    steps = [step(number, text_batch(number)) for number in range(6)]

    def poisoned() -> Iterator[Step]:
        for one in steps:
            with torch.no_grad():
                if one.number in (0, 1):
                    head[5, 0] = torch.nan
                elif one.number == 2:
                    assert torch.equal(tiny_assistant.language.model.norm.weight, before)
                    head.copy_(good)
            yield one

    found = list(train_steps(learns, poisoned(), RunSettings(max_skipped=2), seed=0))
    assert [(one.step, one.skipped) for one in found] == [(3, 2), (4, 2), (5, 2), (6, 2)]
    assert learns.progress == Progress(step=6, skipped=2, faulty=dict.fromkeys(FAULTS, 0))
    (adamw,) = learns.optimizer.all
    assert {float(state["step"]) for state in adamw.state.values()} == {4.0}


def test_too_many_steps_in_a_row_that_are_not_finite_name_the_records(
    tiny_assistant: VisionLanguageModel, tiny_recipe: Recipe
) -> None:
    learns = train_state(tiny_assistant, tiny_recipe, 9)
    with torch.no_grad():
        tiny_assistant.language.lm_head.weight[5, 0] = torch.nan
    steps = [step(number, text_batch(number), text_batch(number + 1)) for number in range(9)]
    with pytest.raises(
        LaternaError, match=r"step 3: loss nan.* 3 steps in a row; in records r2, r3"
    ):
        list(train_steps(learns, steps, RunSettings(max_skipped=2), seed=0))


def test_faulty_images_are_counted_up_to_a_limit(
    tiny_assistant: VisionLanguageModel, tiny_recipe: Recipe
) -> None:
    learns = train_state(tiny_assistant, tiny_recipe, 9)
    steps = [
        step(number, text_batch(number))._replace(faulty={FAULTS[number % 2]: 2})
        for number in range(9)
    ]
    found = train_steps(learns, steps, RunSettings(max_faulty=5), seed=0)
    assert [next(found).faulty, next(found).faulty] == [2, 4]
    with pytest.raises(LaternaError, match=r"4 × image missing, 2 × image cannot be read.* 5;"):
        next(found)


def test_constant_schedules_stay_at_the_peak() -> None:
    warm = [lr_factor(step, 20, 0.2, "constant_with_warmup") for step in range(20)]
    assert warm[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert warm[-1] == 1.0
    assert {lr_factor(step, 20, 0.2, "constant") for step in range(20)} == {1.0}
    assert lr_factor(19, 20, 0.2, "cosine") < 0.01


def test_a_stage_takes_the_schedule_that_its_recipe_names(
    tiny_assistant: VisionLanguageModel, tiny_recipe: Recipe
) -> None:
    apply_stage(tiny_assistant, tiny_recipe, "align")
    stage = msgspec.structs.replace(tiny_recipe.align, lr_scheduler_type="constant")
    train_state = TrainState(tiny_assistant, stage, total=9)
    assert [train_state.set_rates(step) for step in (0, 8)] == [1e-2, 1e-2]
    assert {group["lr"] for group in train_state.optimizer.groups} == {1e-2}
