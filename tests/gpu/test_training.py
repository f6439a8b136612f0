"""A step on a GPU is the step on a CPU: its loss, its gradients, whatever the attention."""

from __future__ import annotations

import msgspec
import pytest
import torch

from laterna.data.batches import collate
from laterna.inference.generation import Decoding, generate_tokens
from laterna.model.build import build_from_recipe
from laterna.model.vlm import VisionLanguageModel
from laterna.recipe import Attention, Recipe
from laterna.records import Batch, Pack, Turn
from laterna.training.dataloader import Step, _pinned
from laterna.training.loop import train_steps
from laterna.training.parallel import Ranks
from laterna.training.setup import set_attention
from laterna.training.stages import apply_stage
from laterna.training.throughput import StepFigures
from laterna.training.train_state import TrainState

from ..tiny import sample

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def batch(seed: int) -> Batch:
    """Two rows of two samples each, one row shorter than the other."""
    samples = [sample(number, 8 + 3 * number) for number in range(4)]
    noise = torch.Generator().manual_seed(seed)
    rows = [Pack(samples=(samples[0], samples[1])), Pack(samples=(samples[2], samples[3]))]
    pixels = torch.randn(4, 3, 28, 28, generator=noise)
    return msgspec.structs.replace(collate(rows), pixels_bchw=pixels)


def trained(recipe: Recipe, device: torch.device, steps: int = 3) -> list[StepFigures]:
    model = build_from_recipe(recipe).to(device)
    set_attention(model, recipe, recipe.instruct)
    apply_stage(model, recipe, "instruct")
    ranks = Ranks(rank=0, count=1, device=device)
    train_state = TrainState(model, recipe.instruct, total=9, ranks=ranks, savings=recipe.savings)
    made = [_pinned(batch(number), device) for number in range(steps)]
    given = [
        Step(number=number, batches=(one,), length=one.input_ids_rt.numel(), faulty={})
        for number, one in enumerate(made)
    ]
    return list(train_steps(train_state, given, recipe.run, seed=0))


def attending(recipe: Recipe, how: Attention) -> Recipe:
    stage = msgspec.structs.replace(recipe.instruct, pack_length=64)
    return msgspec.structs.replace(
        recipe, run=msgspec.structs.replace(recipe.run, attention=how), instruct=stage
    )


def test_a_gpu_learns_what_a_cpu_learns(tiny_recipe: Recipe) -> None:
    there, here = trained(tiny_recipe, GPU), trained(tiny_recipe, CPU)
    assert [one.loss for one in there] == pytest.approx([one.loss for one in here], rel=1e-3)
    norms = [one.grad_norm for one in here]
    assert [one.grad_norm for one in there] == pytest.approx(norms, rel=1e-2)


@pytest.mark.parametrize("how", ["flex", "varlen"])
def test_every_attention_learns_the_same(tiny_recipe: Recipe, how: Attention) -> None:
    plain, other = (trained(attending(tiny_recipe, one), GPU) for one in ("sdpa", how))
    assert [one.loss for one in other] == pytest.approx([one.loss for one in plain], rel=1e-3)


def test_flash_attention_keeps_the_samples_of_several_rows_apart(tiny_recipe: Recipe) -> None:
    pytest.importorskip("flash_attn")
    half = tiny_recipe.with_savings("bf16")
    plain, flash = (trained(attending(half, how), GPU) for how in ("sdpa", "flash_attention_2"))
    assert [one.loss for one in flash] == pytest.approx([one.loss for one in plain], rel=2e-2)


def test_a_batch_for_a_gpu_is_pinned() -> None:
    pinned = _pinned(batch(0), GPU)
    assert pinned.pixels_bchw is not None
    assert pinned.pixels_bchw.is_pinned()
    assert pinned.input_ids_rt.is_pinned()
    assert _pinned(batch(0), CPU).input_ids_rt.is_pinned() is False


def test_a_gpu_answers_what_a_cpu_answers(
    tiny_assistant: VisionLanguageModel,
) -> None:
    from PIL import Image

    prompts = [([Turn(role="user", text="<image>\nWhat is it?")], [Image.new("RGB", (28, 28))])]
    here = generate_tokens(tiny_assistant, prompts, Decoding(max_new_tokens=8))
    there = generate_tokens(tiny_assistant.to(GPU), prompts, Decoding(max_new_tokens=8))
    assert there == here
