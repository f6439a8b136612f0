from __future__ import annotations

import msgspec
import pytest
import torch
from PIL import Image

from laterna.data.batches import collate
from laterna.data.images.tokens import count_images
from laterna.data.masking import tokenize
from laterna.errors import LaternaError
from laterna.model.build import build_from_recipe
from laterna.model.vlm import VisionLanguageModel
from laterna.recipe import Recipe
from laterna.records import InstructionRecord, Pack, Sample, Turn

IMAGE = Image.new("RGB", (40, 30), (200, 30, 30))


def sample(assistant: VisionLanguageModel, number: int, images: int = 1) -> Sample:
    record = InstructionRecord(
        id=f"record-{number}",
        images=tuple(f"{number}-{index}.png" for index in range(images)),
        turns=(
            Turn(role="user", text="<image>\n" * images + "What colour is it?" * number),
            Turn(role="assistant", text="It is red." * number, loss=True),
        ),
    )
    counter = assistant.image_tokens
    return count_images(tokenize(record, assistant.tokenizer), counter, None)


def test_image_tokens_are_known_before_running(tiny_assistant: VisionLanguageModel) -> None:
    assert tiny_assistant.image_tokens(40, 30) == 4
    features = tiny_assistant.vision(tiny_assistant.prepare([IMAGE]))
    assert tiny_assistant.connector(features).shape == (1, 4, 32)


def test_the_connector_is_seeded_and_nothing_else_is_drawn(tiny_recipe: Recipe) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = build_from_recipe(tiny_recipe).connector.state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    again = build_from_recipe(tiny_recipe).connector.state_dict()
    other = build_from_recipe(msgspec.structs.replace(tiny_recipe, seed=4)).connector.state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["layers.0.weight"], other["layers.0.weight"])


def test_embedding_puts_each_image_where_its_mark_stands(
    tiny_assistant: VisionLanguageModel,
) -> None:
    one, two = sample(tiny_assistant, 1), sample(tiny_assistant, 2, images=2)
    batch = collate([Pack(samples=(one,)), Pack(samples=(two,))])
    features = torch.randn(3, 4, 24)
    embedded = tiny_assistant.embed(msgspec.structs.replace(batch, features_bnd=features))
    expected = tiny_assistant.connector(features)
    table = tiny_assistant.language.get_input_embeddings().weight
    places = [(0, one.image_slots[0])]
    places += [(1, two.image_slots[0]), (1, two.image_slots[1] + 3)]
    for image, (row, place) in enumerate(places):
        torch.testing.assert_close(embedded[row, place : place + 4], expected[image])
        assert torch.equal(embedded[row, place - 1], table[batch.input_ids_rt[row, place - 1]])
        assert torch.equal(embedded[row, place + 4], table[batch.input_ids_rt[row, place + 4]])


@pytest.mark.parametrize("given", [0, 1, 3])
def test_too_few_or_too_many_images_name_the_records(
    tiny_assistant: VisionLanguageModel, given: int
) -> None:
    batch = collate([Pack(samples=(sample(tiny_assistant, 1, images=2),))])
    features = torch.zeros(given, 4, 24) if given else None
    with pytest.raises(LaternaError, match=rf"record-1: 8 image places but {4 * given} image"):
        tiny_assistant.embed(msgspec.structs.replace(batch, features_bnd=features))


@torch.no_grad()
def test_packed_samples_do_not_see_each_other(tiny_assistant: VisionLanguageModel) -> None:
    one, two = sample(tiny_assistant, 1), sample(tiny_assistant, 3)
    features = torch.randn(2, 4, 24)
    packed = msgspec.structs.replace(collate([Pack(samples=(one, two))]), features_bnd=features)
    together, labels = tiny_assistant.target_logits(packed)
    alone = []
    for index, single in enumerate((one, two)):
        batch = collate([Pack(samples=(single,))])
        batch = msgspec.structs.replace(batch, features_bnd=features[index : index + 1])
        alone.append(tiny_assistant.target_logits(batch)[0])
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=0)
    learned = [
        token
        for each in (one, two)
        for token, target in zip(each.input_ids, each.targets, strict=True)
        if target
    ]
    assert labels.tolist() == learned


@torch.no_grad()
def test_target_logits_are_those_of_the_whole_row(tiny_assistant: VisionLanguageModel) -> None:
    one = sample(tiny_assistant, 1)
    batch = collate([Pack(samples=(one,))])
    batch = msgspec.structs.replace(batch, pixels_bchw=tiny_assistant.prepare([IMAGE]))
    whole = tiny_assistant.language(inputs_embeds=tiny_assistant.embed(batch)).logits[0]
    logits, _ = tiny_assistant.target_logits(batch)
    places = batch.loss_mask_rt[0].nonzero()[:, 0]
    torch.testing.assert_close(logits, whole[places - 1], atol=1e-5, rtol=0)
    assert len(logits) == sum(one.targets)


def test_logits_over_a_text_without_images_are_the_language_models(
    tiny_assistant: VisionLanguageModel,
) -> None:
    text = "<s>USER: How many apples? ASSISTANT: Two"
    ids = tiny_assistant.tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
    with torch.no_grad():
        expected = tiny_assistant.language(ids).logits[0]
    torch.testing.assert_close(tiny_assistant.logits([], text), expected, atol=1e-6, rtol=0)
