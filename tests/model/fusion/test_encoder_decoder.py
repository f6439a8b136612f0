"""Image tokens through the encoder, the answer by the decoder: held against transformers' own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from laterna.data.batches import collate
from laterna.data.masking import tokenize_prompt
from laterna.data.packing import plan_packs
from laterna.errors import LaternaError
from laterna.inference.batching.steps import EngineSettings
from laterna.inference.engine import Engine
from laterna.inference.generation import Decoding, generate_tokens
from laterna.model.build import build_from_recipe
from laterna.model.checkpoint import load_checkpoint, save_checkpoint
from laterna.model.cost import cost_of
from laterna.model.fusion.prefix import PrefixFusion
from laterna.model.vlm import VisionLanguageModel
from laterna.recipe import FusionSettings, Recipe
from laterna.records import Batch, Pack, Turn
from laterna.training.objective import Objective, empty_batch

from ...tiny import encoder_decoder, sample


@pytest.fixture(params=["t5", "t5gemma"])
def recipe(
    request: pytest.FixtureRequest, tiny_recipe: Recipe, tiny_tokenizer: Any, tmp_path: Path
) -> Recipe:
    """The tiny recipe over a random T5 or T5Gemma of two layers."""
    torch.manual_seed(0)
    return encoder_decoder(tiny_recipe, tiny_tokenizer, tmp_path / "language", request.param)


@pytest.fixture
def model(recipe: Recipe) -> VisionLanguageModel:
    """An untrained assistant over that language model, in float64: sums are held to 1e-6."""
    return build_from_recipe(recipe).double()


def rows(*packs: Pack) -> Batch:
    """Return a batch with features of each of its images."""
    batch = collate(list(packs))
    torch.manual_seed(1)
    return msgspec.structs.replace(batch, features_bnd=torch.randn(len(batch.images), 4, 24))


def alone(model: VisionLanguageModel, batch: Batch) -> Tensor:
    """Return transformers' own mean loss of a batch of one sample with one answer."""
    targets = batch.loss_mask_rt[0]
    begin = int(targets.nonzero()[0])
    labels = batch.input_ids_rt[:, targets]
    loss: Tensor = model.language(inputs_embeds=model.embed(batch)[:, :begin], labels=labels).loss
    return loss


@torch.no_grad()
def test_the_loss_is_transformers_own(model: VisionLanguageModel) -> None:
    batch = rows(Pack(samples=(sample(0, 9),)))
    logits_sv, labels_s = model.target_logits(batch)
    assert len(labels_s) == int(batch.loss_mask_rt.sum()) > 1
    assert float(cross_entropy(logits_sv, labels_s)) == pytest.approx(
        float(alone(model, batch)), abs=1e-6
    )


@torch.no_grad()
def test_packed_and_padded_samples_are_what_they_are_alone(model: VisionLanguageModel) -> None:
    packs = [Pack(samples=(sample(0, 5), sample(1, 8))), Pack(samples=(sample(2, 11),))]
    together = rows(*packs)
    logits_sv, labels_s = model.target_logits(together)
    features = together.features_bnd
    assert features is not None
    singles = [
        msgspec.structs.replace(
            collate([Pack(samples=(one,))]), features_bnd=features[number : number + 1]
        )
        for number, one in enumerate(one for pack in packs for one in pack.samples)
    ]
    apart = [model.target_logits(single) for single in singles]
    assert torch.equal(labels_s, torch.cat([labels for _, labels in apart]))
    torch.testing.assert_close(
        logits_sv, torch.cat([one for one, _ in apart]), atol=1e-6, rtol=1e-6
    )


@torch.no_grad()
def test_siblings_read_their_shared_image_as_they_do_alone(
    model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two captions, for which an image is read once, and a question about it."""
    replace = msgspec.structs.replace
    first, second = sample(0, 6), replace(sample(0, 4), id="second")
    captions = [replace(one, targets=(False,) * 2 + (True,) * (len(one.input_ids) - 2))
                for one in (first, second)]  # fmt: skip
    samples = [*captions, replace(sample(0, 9), id="third")]
    packs = plan_packs(samples, pack_length=64, shared_prefix=True)
    assert packs[0].shared == (0, 2, 2)
    together = rows(*packs)
    assert together.features_bnd is not None and len(together.features_bnd) == 1
    read: list[int] = []
    encoder = model.language.get_encoder()
    count = encoder.register_forward_pre_hook(
        lambda _module, _args, given: read.append(len(given["inputs_embeds"])), with_kwargs=True
    )
    logits_sv, labels_s = model.target_logits(together)
    count.remove()
    windowed = model.language.config.model_type == "t5gemma"  # narrower than the padding would be
    assert read == ([1, 1] if windowed else [2])
    apart = [
        model.target_logits(
            replace(collate([Pack(samples=(one,))]), features_bnd=together.features_bnd)
        )
        for one in samples
    ]
    assert torch.equal(labels_s, torch.cat([labels for _, labels in apart]))
    torch.testing.assert_close(
        logits_sv, torch.cat([one for one, _ in apart]), atol=1e-6, rtol=1e-6
    )


def test_all_weights_take_part_in_a_batch_without_answers(model: VisionLanguageModel) -> None:
    """Engines that add up gradients over ranks wait for every weight."""
    loss = Objective(model)(empty_batch())
    loss.backward()
    assert float(loss.detach()) == 0.0
    lacking = [name for name, weight in model.named_parameters()
               if weight.grad is None and not name.startswith("vision.")]  # fmt: skip
    assert lacking == []


def test_every_answer_is_read_from_all_before_it(model: VisionLanguageModel) -> None:
    """Two answers in a sample: the second's encoder text holds the first."""
    batch = rows(Pack(samples=(sample(0, 9),)))
    loss_mask_rt = torch.zeros_like(batch.loss_mask_rt)
    loss_mask_rt[:, 6:8] = loss_mask_rt[:, 10:] = True
    batch = msgspec.structs.replace(batch, loss_mask_rt=loss_mask_rt)
    with torch.no_grad():
        logits_sv, labels_s = model.target_logits(batch)
        embeds_rtd = model.embed(batch)
        for begin, end, mine in ((6, 8, slice(0, 2)), (10, None, slice(2, None))):
            labels = batch.input_ids_rt[:, begin:end]
            own = model.language(inputs_embeds=embeds_rtd[:, :begin], labels=labels).loss
            assert float(cross_entropy(logits_sv[mine], labels_s[mine])) == pytest.approx(
                float(own), abs=1e-6
            )


@torch.no_grad()
def test_greedy_answers_are_transformers_own(
    model: VisionLanguageModel, recipe: Recipe, tmp_path: Path
) -> None:
    """Several prompts at once, padded, as each alone; and again from a saved checkpoint."""
    texts = ("<image>\nWhat is it?", "<image>\nIs the cup red or blue? Say it.")
    prompts = [((Turn(role="user", text=text),), ()) for text in texts]
    features_bnd = torch.randn(2, 4, 24)
    found = generate_tokens(model, prompts, Decoding(max_new_tokens=6), features_bnd=features_bnd)
    for number, (turns, _) in enumerate(prompts):
        ids = tokenize_prompt(turns, model.tokenizer, model.template)
        images = model.connect(features_bnd[number : number + 1])
        inputs = PrefixFusion.generation_inputs(model.fusion, model.language, [ids], images)
        own = model.language.generate(
            **inputs, do_sample=False, max_new_tokens=6, eos_token_id=model.end_of_turn()
        )
        assert found[number] == own[0, 1:].tolist()
    save_checkpoint(tmp_path / "saved", model, recipe, stage=None, figures={})
    again = load_checkpoint(tmp_path / "saved").double()
    assert found == generate_tokens(
        again, prompts, Decoding(max_new_tokens=6), features_bnd=features_bnd
    )


def test_the_engine_answers_several_at_once_as_each_alone(model: VisionLanguageModel) -> None:
    """Of other lengths, with other limits, one drawn, one stopped, and more than there are rows."""
    texts = ("What is it?", "Is the cup red or blue? Say it.", "Why?", "What is it?", "And?")
    limits = (6, 9, 3, 12, 1)
    prompts = [(Turn(role="user", text=text),) for text in texts]
    decodings = [Decoding(max_new_tokens=limit) for limit in limits]
    decodings[3] = Decoding(max_new_tokens=12, temperature=1.0, seed=3)
    engine = Engine(model, EngineSettings(rows=3))
    assert engine.one_by_one == "it is an encoder with a decoder"
    alone = [
        engine.submit(one, (), how).result() for one, how in zip(prompts, decodings, strict=True)
    ]
    calls: list[int] = []
    encoder = model.language.get_encoder()
    encoder.register_forward_pre_hook(
        lambda _module, _args, given: calls.append(len(given["inputs_embeds"])), with_kwargs=True
    )
    with engine._lock:
        requests = [
            engine.submit(one, (), how) for one, how in zip(prompts, decodings, strict=True)
        ]
    together = [request.result() for request in requests]
    windowed = model.language.config.model_type == "t5gemma"  # narrower than the padding would be
    assert calls == ([1, 1, 1, 2] if windowed else [3, 2])
    assert [one.tokens for one in together] == [one.tokens for one in alone]
    assert [one.finish for one in together] == [one.finish for one in alone]
    assert [len(one.tokens) for one in together][:3] == [6, 9, 3]
    engine.close()


def test_what_answers_cost_is_counted_beforehand(model: VisionLanguageModel) -> None:
    """By shapes alone, as the planner and the meter do; of several answers, read apart."""
    model.language.set_attn_implementation("eager")
    for part in (model.vision, model.fusion, model.language):
        part.requires_grad_(False)
    packs = [Pack(samples=(sample(0, 9), sample(1, 9))), Pack(samples=(sample(2, 9),))]
    batch = rows(*packs)
    with FlopCounterMode(display=False) as real:
        logits_sv, _ = model.target_logits(batch)
        forward = real.get_total_flops()
        logits_sv.sum().backward()
    cost = cost_of(model)
    assert cost.forward.of([batch], 0) == pytest.approx(forward, rel=1e-9)
    assert cost.training.of([batch], 0) == pytest.approx(real.get_total_flops(), rel=1e-9)


def test_the_fusion_and_the_kind_of_language_model_go_together(
    recipe: Recipe, tiny_recipe: Recipe
) -> None:
    for wrong in (
        msgspec.structs.replace(recipe, fusion=FusionSettings()),
        msgspec.structs.replace(tiny_recipe, fusion=FusionSettings(kind="encoder_decoder")),
    ):
        with pytest.raises(LaternaError, match="'encoder_decoder' is for t5, mt5, umt5, t5gemma"):
            build_from_recipe(wrong)
