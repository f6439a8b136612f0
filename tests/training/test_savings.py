"""Savings by value: checkpointed and compiled gradients are the plain ones, bf16's are near."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import get_args

import msgspec
import pytest
import torch
from torch import Tensor

from laterna.data.batches import collate
from laterna.errors import LaternaError
from laterna.model.attention.varlen import use_varlen_attention
from laterna.model.build import build_from_recipe
from laterna.model.language.causal import layers_of
from laterna.model.vlm import VisionLanguageModel
from laterna.recipe import PartSettings, Recipe, Saving, StageName
from laterna.records import IMAGE_TOKEN_INDEX, Batch, Pack, Sample
from laterna.training import train_state as savings
from laterna.training.resume import run_digest
from laterna.training.stages import apply_stage
from laterna.training.train_state import SAVINGS, TrainState


def batch(length: int = 40, rows: int = 3) -> Batch:
    random = torch.Generator().manual_seed(5)
    packs = []
    for row in range(rows):
        words = torch.randint(5, 400, (length,), generator=random).tolist()
        sample = Sample(
            id=f"r{row}",
            input_ids=(1, IMAGE_TOKEN_INDEX, *words),
            targets=(False,) * 12 + (True,) * (length - 10),
            image_slots=(1,),
            images=(f"{row}.png",),
            image_tokens=(4,),
        )
        packs.append(Pack(samples=(sample,)))
    pixels = torch.randn(rows, 3, 28, 28, generator=random)
    return msgspec.structs.replace(collate(packs), pixels_bchw=pixels)


def train_state(recipe: Recipe, stage: StageName, *savings: Saving) -> TrainState:
    assistant = build_from_recipe(recipe)
    apply_stage(assistant, recipe, stage)
    return TrainState(assistant, recipe.stage(stage), total=9, savings=savings)


def gradients(learns: TrainState) -> tuple[float, dict[str, Tensor]]:
    loss = learns.model(batch()) / 90
    loss.backward()
    found = {name: weight.grad for name, weight in learns.weights.items()}
    assert found
    assert all(gradient is not None for gradient in found.values())
    return loss.item(), {name: one for name, one in found.items() if one is not None}


class Kept:
    """Sums the bytes that autograd keeps for the backward pass, each storage once."""

    def __init__(self) -> None:
        self.storages: dict[int, int] = {}

    def keep(self, tensor: Tensor) -> Tensor:
        self.storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    @staticmethod
    def bytes(learns: TrainState) -> int:
        kept = Kept()
        gc.collect()
        with torch.autograd.graph.saved_tensors_hooks(kept.keep, lambda tensor: tensor):
            learns.model(batch(200))
        return sum(kept.storages.values())


def test_every_saving_of_the_recipe_is_known() -> None:
    assert tuple(SAVINGS) == get_args(Saving)


@pytest.mark.parametrize("stage", ["align", "instruct"])
def test_checkpointing_keeps_less_and_changes_no_gradient(
    tiny_recipe: Recipe, stage: StageName
) -> None:
    vision = PartSettings(mode="full", lr=1e-3)
    instruct = msgspec.structs.replace(tiny_recipe.instruct, vision=vision)
    recipe = msgspec.structs.replace(tiny_recipe, instruct=instruct)
    plain, saving = train_state(recipe, stage), train_state(recipe, stage, "checkpointing")
    loss, expected = gradients(plain)
    loss_2, found = gradients(saving)
    assert loss_2 == pytest.approx(loss, abs=1e-6)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-6, rtol=0)
    assert Kept.bytes(saving) < 0.5 * Kept.bytes(plain)


def test_a_checkpointed_frozen_layer_still_drops_nothing(tiny_recipe: Recipe) -> None:
    language = train_state(tiny_recipe, "align", "checkpointing").objective.assistant.language
    for layer in layers_of(language):
        assert layer.training
        assert not any(inner.training for inner in layer.modules() if inner is not layer)


@pytest.fixture
def fast_half(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU that is fast in bfloat16, whatever this one is."""
    monkeypatch.setattr(savings, "fast_dtype", lambda _device: torch.bfloat16)


def test_bf16_stays_in_float32_where_that_is_faster(
    tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(savings, "fast_dtype", lambda _device: torch.float32)
    loss, expected = gradients(train_state(tiny_recipe, "align"))
    half = train_state(tiny_recipe, "align", "bf16")
    loss_2, found = gradients(half)
    assert loss_2 == loss
    assert all(torch.equal(gradient, expected[name]) for name, gradient in found.items())
    assert {weight.dtype for weight in half.objective.parameters()} == {torch.float32}


@pytest.mark.usefixtures("fast_half")
@pytest.mark.parametrize("stage", ["align", "instruct"])
def test_bf16_computes_in_16_bits_and_keeps_what_trains_in_32(
    tiny_recipe: Recipe, stage: StageName
) -> None:
    plain, half = train_state(tiny_recipe, stage), train_state(tiny_recipe, stage, "bf16")
    loss, expected = gradients(plain)
    loss_2, found = gradients(half)
    assert loss_2 != loss
    assert loss_2 == pytest.approx(loss, rel=1e-2)
    assert {weight.dtype for weight in half.weights.values()} == {torch.float32}
    for name, gradient in found.items():
        apart = (gradient - expected[name]).norm() / expected[name].norm()
        assert 0 < apart < 0.05, name
    assistant = half.objective.assistant
    kept = {part: next(one.parameters()).dtype for part, one in assistant.parts().items()}
    frozen = torch.bfloat16 if stage == "align" else torch.float32
    assert kept == {"vision": torch.bfloat16, "connector": torch.float32, "language": frozen}


@pytest.mark.usefixtures("fast_half")
def test_bf16_leaves_a_frozen_part_that_an_earlier_stage_changed(tiny_recipe: Recipe) -> None:
    assistant = build_from_recipe(tiny_recipe)
    assistant.changed.add("language")
    apply_stage(assistant, tiny_recipe, "align")
    TrainState(assistant, tiny_recipe.align, total=9, savings=("bf16",))
    assert {weight.dtype for weight in assistant.language.parameters()} == {torch.float32}
    assert {weight.dtype for weight in assistant.vision.parameters()} == {torch.bfloat16}


@pytest.mark.slow
def test_compiled_layers_give_the_plain_gradients(tiny_recipe: Recipe) -> None:
    loss, expected = gradients(train_state(tiny_recipe, "instruct"))
    loss_2, found = gradients(train_state(tiny_recipe, "instruct", "compile"))
    assert loss_2 == pytest.approx(loss, abs=1e-5)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_rows_of_other_segments_compile_nothing_anew(tiny_recipe: Recipe) -> None:
    loss, expected = gradients(train_state(tiny_recipe, "instruct"))
    learns = train_state(tiny_recipe, "instruct", "compile")
    use_varlen_attention(learns.objective.assistant.language)
    for length, rows in ((40, 3), (30, 2)):  # the second size makes every size a variable
        learns.model(batch(length, rows)).backward()
        learns.model.zero_grad()
    with torch.compiler.set_stance("fail_on_recompile"):
        learns.model(batch(50, 5)).backward()
        learns.model.zero_grad()
        loss_2, found = gradients(learns)
    assert loss_2 == pytest.approx(loss, abs=1e-5)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-5, rtol=1e-4)


def test_compiling_on_a_cpu_without_a_compiler_is_refused(
    tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(LaternaError, match=r"compile: .* needs a C\+\+ compiler \(g\+\+"):
        train_state(tiny_recipe, "instruct", "compile")


def test_a_model_that_cannot_checkpoint_says_so(
    tiny_assistant: VisionLanguageModel, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply_stage(tiny_assistant, tiny_recipe, "instruct")
    kind = type(tiny_assistant.language)
    monkeypatch.setattr(kind, "supports_gradient_checkpointing", False)
    with pytest.raises(LaternaError, match=r"gradient_checkpointing: Llama.* leave it out"):
        TrainState(tiny_assistant, tiny_recipe.instruct, total=9, savings=("checkpointing",))


def test_only_a_saving_that_changes_results_makes_another_run(recipe: Recipe) -> None:
    def digest(*savings: Saving) -> str:
        return run_digest(recipe.with_savings(*savings), "align", None)

    assert digest("checkpointing") == digest("compile", "checkpointing") == digest()
    assert digest("bf16", "compile") == digest("bf16") != digest()
