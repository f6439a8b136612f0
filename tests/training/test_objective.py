from __future__ import annotations

from itertools import pairwise
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from laterna.data.batches import collate
from laterna.data.images.tokens import count_images
from laterna.data.masking import tokenize
from laterna.data.packing import plan_batches, plan_packs
from laterna.model.vlm import VisionLanguageModel
from laterna.recipe import Recipe
from laterna.records import Batch, InstructionRecord, Sample, Turn
from laterna.training.objective import Objective, count_targets, empty_batch, summed_loss
from laterna.training.stages import apply_stage

FEATURES = {f"{number}.png": torch.randn(4, 24) for number in range(9)}


@pytest.fixture
def samples(tiny_assistant: VisionLanguageModel) -> list[Sample]:
    found = []
    for number in range(9):
        record = InstructionRecord(
            id=str(number),
            images=(f"{number}.png",) if number % 3 else (),
            turns=(
                Turn(role="user", text=("<image>\n" if number % 3 else "") + "Is it red?"),
                Turn(role="assistant", text="The bicycle is red. " * (number + 1), loss=True),
                Turn(role="user", text="How many?"),
                Turn(role="assistant", text="There are two.", loss=True),
            ),
        )
        sample = tokenize(record, tiny_assistant.tokenizer)
        found.append(count_images(sample, tiny_assistant.image_tokens, None))
    return found


def batches(samples: list[Sample], pack_length: int, micro_batch_tokens: int) -> list[Batch]:
    packs = plan_packs(samples, pack_length=pack_length)
    made = []
    for rows in plan_batches(packs, micro_batch_tokens=micro_batch_tokens):
        batch = collate(rows)
        features = [FEATURES[name] for name in batch.images]
        given = torch.stack(features) if features else None
        made.append(msgspec.structs.replace(batch, features_bnd=given))
    return made


def backward(assistant: VisionLanguageModel, split: list[Batch]) -> tuple[Tensor, int]:
    """Add the gradients of a step as the training loop does."""
    objective, targets = Objective(assistant), count_targets(split)
    total = torch.zeros(())
    for batch in split:
        loss = objective(batch) / targets
        loss.backward()
        total += loss.detach()
    return total, targets


def test_loss_and_gradients_are_the_same_however_the_step_is_split_and_packed(
    tiny_assistant: VisionLanguageModel, tiny_recipe: Recipe, samples: list[Sample]
) -> None:
    apply_stage(tiny_assistant, tiny_recipe, "instruct")
    found = []
    for pack_length, micro_batch_tokens in (
        (0, 10_000),
        (0, 1),
        (0, 300),
        (512, 10_000),
        (300, 400),
    ):
        tiny_assistant.zero_grad(set_to_none=True)
        split = batches(samples, pack_length, micro_batch_tokens)
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
    tiny_assistant: VisionLanguageModel, samples: list[Sample]
) -> None:
    terms = []
    for sample in samples:
        [batch] = batches([sample], 0, 10_000)
        logits = tiny_assistant.language(inputs_embeds=tiny_assistant.embed(batch)).logits[0]
        for place in range(1, len(logits)):
            if batch.loss_mask_rt[0, place]:
                label = batch.input_ids_rt[0, place]
                terms.append(functional.cross_entropy(logits[place - 1], label))
    assert len(terms) == sum(sum(sample.targets) for sample in samples)
    with torch.enable_grad():
        loss, _ = backward(tiny_assistant, batches(samples, 512, 700))
    torch.testing.assert_close(loss, torch.stack(terms).mean(), atol=1e-5, rtol=0)


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation makes, in elements."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return made


@pytest.mark.parametrize(("targets", "vocabulary"), [(700, 1000), (1400, 1000), (700, 2000)])
def test_the_logits_in_memory_are_bounded_whatever_targets_and_vocabulary(
    targets: int, vocabulary: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("laterna.training.objective.LOGITS_AT_ONCE", 50_000)
    states = torch.randn(targets, 8, requires_grad=True)
    head = nn.Linear(8, vocabulary, bias=False)
    labels = torch.randint(vocabulary, (targets,))
    with Largest() as largest:
        loss = summed_loss(states, labels, head, vocabulary)
        loss.backward()
    assert largest.elements <= 50_000
    found = [states.grad, head.weight.grad]
    states.grad = head.weight.grad = None
    whole = functional.cross_entropy(head(states), labels, reduction="sum")
    whole.backward()
    torch.testing.assert_close(loss, whole, rtol=1e-6, atol=0)
    for one, other in zip(found, [states.grad, head.weight.grad], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_a_batch_without_images_or_targets_still_reaches_every_part(
    tiny_assistant: VisionLanguageModel, tiny_recipe: Recipe
) -> None:
    part = tiny_recipe.align.connector
    stage = msgspec.structs.replace(tiny_recipe.instruct, vision=part)
    apply_stage(tiny_assistant, msgspec.structs.replace(tiny_recipe, instruct=stage), "instruct")
    loss = Objective(tiny_assistant)(empty_batch())
    assert loss.item() == 0
    loss.backward()
    gradients = [weight.grad for weight in tiny_assistant.parameters()]
    assert all(gradient is not None and not gradient.any() for gradient in gradients)
