"""Image tokens through the encoder, the answer by the decoder: held against transformers' own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from laterna.data.batches import collate
from laterna.data.masking import tokenize_prompt
from laterna.errors import LaternaError
from laterna.inference.engine import Engine
from laterna.inference.generation import Decoding, generate_tokens
from laterna.model.build import build_from_recipe
from laterna.model.checkpoint import load_checkpoint, save_checkpoint
from laterna.model.vlm import VisionLanguageModel
from laterna.recipe import FusionSettings, Recipe
from laterna.records import Batch, Pack, Turn

from ...tiny import encoder_decoder, sample


@pytest.fixture
def recipe(tiny_recipe: Recipe, tiny_tokenizer: Any, tmp_path: Path) -> Recipe:
    """The tiny recipe over a random T5 of two layers."""
    torch.manual_seed(0)
    return encoder_decoder(tiny_recipe, tiny_tokenizer, tmp_path / "t5")


@pytest.fixture
def model(recipe: Recipe) -> VisionLanguageModel:
    """An untrained assistant whose language model is that T5, in float64: sums are held to 1e-6."""
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
    torch.testing.assert_close(logits_sv, torch.cat([one for one, _ in apart]), atol=1e-9, rtol=0)


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
        inputs = model.fusion.generation_inputs(model.language, [ids], images)
        own = model.language.generate(
            **inputs, do_sample=False, max_new_tokens=6, eos_token_id=model.end_of_turn()
        )
        assert found[number] == own[0, 1:].tolist()
    save_checkpoint(tmp_path / "saved", model, recipe, stage=None, figures={})
    again = load_checkpoint(tmp_path / "saved").double()
    assert found == generate_tokens(
        again, prompts, Decoding(max_new_tokens=6), features_bnd=features_bnd
    )


def test_the_engine_answers_one_by_one(model: VisionLanguageModel) -> None:
    assert Engine(model).one_by_one == "it is an encoder with a decoder"


def test_the_fusion_and_the_kind_of_language_model_go_together(
    recipe: Recipe, tiny_recipe: Recipe
) -> None:
    for wrong in (
        msgspec.structs.replace(recipe, fusion=FusionSettings()),
        msgspec.structs.replace(tiny_recipe, fusion=FusionSettings(kind="encoder_decoder")),
    ):
        with pytest.raises(LaternaError, match="'encoder_decoder' is for t5, mt5, umt5"):
            build_from_recipe(wrong)
