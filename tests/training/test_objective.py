from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest
import torch
from torch.nn import functional

from laterna.data.batches import collate
from laterna.data.masking import tokenise
from laterna.data.packing import plan_batches, plan_packs
from laterna.data.picture_tokens import count_pictures
from laterna.errors import LaternaError
from laterna.model.assistant import Assistant
from laterna.recipe import Recipe
from laterna.records import Batch, InstructionRecord, Pack, Sample, Turn
from laterna.training.objective import backward
from laterna.training.stages import apply_stage

FEATURES = {f"{number}.png": torch.randn(4, 24) for number in range(9)}


@pytest.fixture
def samples(tiny_assistant: Assistant) -> list[Sample]:
    found = []
    for number in range(9):
        record = InstructionRecord(
            id=str(number),
            pictures=(f"{number}.png",) if number % 3 else (),
            turns=(
                Turn(role="user", text=("<image>\n" if number % 3 else "") + "Is it red?"),
                Turn(role="assistant", text="The bicycle is red. " * (number + 1), loss=True),
                Turn(role="user", text="How many?"),
                Turn(role="assistant", text="There are two.", loss=True),
            ),
        )
        sample = tokenise(record, tiny_assistant.tokenizer)
        found.append(count_pictures(sample, tiny_assistant.picture_tokens, None))
    return found


def batches(samples: list[Sample], row_tokens: int, micro_tokens: int) -> list[Batch]:
    packs = plan_packs(samples, row_tokens=row_tokens)
    made = []
    for rows in plan_batches(packs, micro_tokens=micro_tokens):
        batch = collate(rows)
        features = [FEATURES[name] for name in batch.pictures]
        given = torch.stack(features) if features else None
        made.append(msgspec.structs.replace(batch, features_bnd=given))
    return made


def test_loss_and_gradients_are_the_same_however_the_step_is_split_and_packed(
    tiny_assistant: Assistant, tiny_recipe: Recipe, samples: list[Sample]
) -> None:
    apply_stage(tiny_assistant, tiny_recipe.instruct)
    found = []
    for row_tokens, micro_tokens in ((0, 10_000), (0, 1), (0, 300), (512, 10_000), (300, 400)):
        tiny_assistant.zero_grad(set_to_none=True)
        split = batches(samples, row_tokens, micro_tokens)
        loss, targets = backward(tiny_assistant, split)
        gradients = [
            weight.grad.clone() for weight in tiny_assistant.parameters() if weight.grad is not None
        ]
        found.append((loss, targets, gradients, len(split)))
    assert [count for *_, count in found][:2] == [1, 9]
    for (loss, targets, gradients, _), (loss_2, targets_2, gradients_2, _) in pairwise(found):
        assert targets == targets_2
        torch.testing.assert_close(loss, loss_2, atol=1e-6, rtol=1e-6)
        for one, other in zip(gradients, gradients_2, strict=True):
            torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_the_loss_is_the_mean_over_the_answers_tokens(
    tiny_assistant: Assistant, samples: list[Sample]
) -> None:
    terms = []
    for sample in samples:
        [batch] = batches([sample], 0, 10_000)
        logits = tiny_assistant.language(inputs_embeds=tiny_assistant.embed(batch)).logits[0]
        for place in range(1, len(logits)):
            if batch.targets_rt[0, place]:
                label = batch.input_ids_rt[0, place]
                terms.append(functional.cross_entropy(logits[place - 1], label))
    assert len(terms) == sum(sum(sample.targets) for sample in samples)
    with torch.enable_grad():
        loss, _ = backward(tiny_assistant, batches(samples, 512, 700))
    torch.testing.assert_close(loss, torch.stack(terms).mean(), atol=1e-5, rtol=0)


def test_a_step_without_targets_names_its_records(tiny_assistant: Assistant) -> None:
    silent = Sample(id="silent-7", input_ids=(1, 5, 6), targets=(False,) * 3, picture_slots=())
    with pytest.raises(LaternaError, match="silent-7: no token carries loss"):
        backward(tiny_assistant, [collate([Pack(samples=(silent,))])])
