"""Flamingo's fusion: images reach the tokens that they should, packed, cached and trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from torch import Tensor

from laterna.data.batches import collate
from laterna.data.images.tokens import SameTokens
from laterna.data.packing import plan_packs
from laterna.errors import LaternaError
from laterna.inference.generation import generate_rows
from laterna.model.attention.cross import last_images
from laterna.model.build import build_from_recipe
from laterna.model.checkpoint import load_checkpoint, save_checkpoint
from laterna.model.fusion import FUSIONS, fusion_kind
from laterna.model.fusion.cross_attention import Media
from laterna.model.vlm import VisionLanguageModel
from laterna.recipe import (
    CrossAttentionSettings,
    FusionSettings,
    PartSettings,
    Recipe,
)
from laterna.records import IMAGE_TOKEN_INDEX, Batch, Pack, Sample
from laterna.training.objective import Objective, empty_batch
from laterna.training.stages import apply_stage, summarize
from laterna.training.train_state import apply_savings

from ... import tiny


@pytest.fixture
def flamingo_recipe(tiny_recipe: Recipe) -> Recipe:
    """The tiny recipe with 4 latents and a block before each of two layers."""
    return tiny.flamingo(tiny_recipe)


def open_gates(model: VisionLanguageModel) -> VisionLanguageModel:
    """Let images count, as after training."""
    with torch.no_grad():
        for name, weight in model.fusion.named_parameters():
            if name.endswith("gate"):
                weight.fill_(0.7)
    return model


@pytest.fixture
def flamingo(flamingo_recipe: Recipe) -> VisionLanguageModel:
    """A network that was trained for a while."""
    return open_gates(build_from_recipe(flamingo_recipe))


def chat(number: int, *parts: int) -> Sample:
    """A sample of text pieces of so many tokens with an image between each two; 2 are learned."""
    ids: list[int] = [1]
    slots = []
    for place, length in enumerate(parts):
        if place:
            slots.append(len(ids))
            ids.append(IMAGE_TOKEN_INDEX)
        ids += [10 + (17 * number + 3 * place + step) % 200 for step in range(length)]
    names = tuple(f"{number}-{place}" for place in range(len(slots)))
    return Sample(
        id=str(number),
        input_ids=tuple(ids),
        targets=(False,) * (len(ids) - 2) + (True,) * 2,
        image_slots=tuple(slots),
        images=names,
        image_tokens=(1,) * len(slots),
    )


def features(batch: Batch) -> Batch:
    """Give each image features that follow from its name."""
    made = []
    for name in batch.images:
        noise = torch.Generator().manual_seed(sum(map(ord, name)))
        made.append(torch.randn(4, 24, generator=noise))
    return replace(batch, features_bnd=torch.stack(made) if made else None)


def states_of(model: VisionLanguageModel, packs: Sequence[Pack]) -> dict[str, Tensor]:
    """The states that each sample's targets are predicted from, by its id."""
    batch = features(collate(packs))
    states = model.target_states(batch)[0]
    return dict(zip(batch.ids, states.split(2), strict=True))


SAMPLES = [chat(1, 3, 4), chat(2, 0, 5, 2), chat(3, 6), chat(4, 2, 1, 1, 3)]


@torch.no_grad()
def test_at_first_a_network_writes_what_its_language_model_writes(flamingo_recipe: Recipe) -> None:
    model = build_from_recipe(flamingo_recipe)
    batch = features(collate([Pack(samples=(chat(4, 2, 1, 1, 3),))]))
    joined = model.hidden_states(batch)
    alone = model.language.get_decoder()(
        inputs_embeds=model.embed(batch), position_ids=batch.position_ids_rt
    ).last_hidden_state
    assert torch.equal(joined, alone)
    open_gates(model)
    assert not torch.allclose(model.hidden_states(batch), alone, atol=1e-3)


@torch.no_grad()
def test_packed_samples_are_what_they_are_alone(flamingo: VisionLanguageModel) -> None:
    alone: dict[str, Tensor] = {}
    for one in SAMPLES:
        alone |= states_of(flamingo, [Pack(samples=(one,))])
    first, second = Pack(samples=tuple(SAMPLES[:3])), Pack(samples=(SAMPLES[3], SAMPLES[0]))
    packed = states_of(flamingo, [first]) | states_of(flamingo, [second])
    padded = states_of(flamingo, [first, Pack(samples=(SAMPLES[3],))])
    for name, states in alone.items():
        torch.testing.assert_close(packed[name], states, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(padded[name], states, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_siblings_behind_a_shared_image_are_what_they_are_alone(
    flamingo: VisionLanguageModel,
) -> None:
    """The second of them has an image of its own besides."""
    first = chat(1, 0, 4)
    second = replace(chat(1, 0, 2, 3), id="second", targets=(False,) * 6 + (True,) * 2)
    third = replace(chat(1, 0, 6), id="third")
    family = [first, second, third]
    packs = plan_packs(family, pack_length=64, shared_prefix=True)
    assert packs[0].shared == (0, 2, 2)
    alone: dict[str, Tensor] = {}
    for one in family:
        alone |= states_of(flamingo, [Pack(samples=(one,))])
    shared = states_of(flamingo, packs)
    for name, states in alone.items():
        torch.testing.assert_close(shared[name], states, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_an_earlier_image_reaches_a_later_token_through_the_text_alone(
    flamingo: VisionLanguageModel,
) -> None:
    """A token behind two images looks at the second; a change of the first reaches it all the same,
    for the language model's own attention reads the tokens between them.
    """
    marks = torch.tensor([[False, True, False, True, False]])
    assert last_images(marks, torch.arange(5)[None], None).tolist() == [[0, 1, 1, 2, 2]]
    batch = features(collate([Pack(samples=(chat(2, 0, 5, 2),))]))
    assert batch.features_bnd is not None
    other = batch.features_bnd.clone()
    other[0] = -other[0]
    changed = replace(batch, features_bnd=other)
    before, after = flamingo.hidden_states(batch), flamingo.hidden_states(changed)
    assert torch.equal(before[:, :1], after[:, :1])
    assert not torch.allclose(before[:, -1], after[:, -1], atol=1e-4)


@torch.no_grad()
def test_cached_answers_are_those_of_whole_rows(flamingo: VisionLanguageModel) -> None:
    """Prompts of several lengths and images, one without any, padded on the left."""
    prompts = [[1, 12, IMAGE_TOKEN_INDEX, 14, 15, IMAGE_TOKEN_INDEX, 20, 21], [1, 33, 40]]
    prompts.append([IMAGE_TOKEN_INDEX, 60, 61])
    images = list(torch.randn(3, 4, 24, generator=torch.Generator().manual_seed(1)))
    inputs = flamingo.fusion.generation_inputs(flamingo.language, prompts, images)
    found = generate_rows(flamingo, inputs, 6)
    for prompt, shown, answer in zip(prompts, (images[:2], [], images[2:]), found, strict=True):
        for place, token in enumerate(answer):
            ids = torch.tensor([[*prompt, *answer[:place]]])
            batch = Batch(
                ids=("one",),
                input_ids_rt=ids,
                position_ids_rt=torch.arange(ids.shape[1])[None],
                loss_mask_rt=torch.zeros_like(ids, dtype=torch.bool),
                image_mask_rt=ids == IMAGE_TOKEN_INDEX,
            )
            last = torch.zeros_like(ids, dtype=torch.bool)
            last[0, -1] = True
            logits = flamingo.fusion.logits_at(flamingo.language, batch, shown, last)
            assert int(logits.argmax()) == token


@pytest.mark.parametrize("padded", [0, 3])
@torch.no_grad()
def test_rows_that_are_answered_together_look_at_what_they_do_alone(
    flamingo: VisionLanguageModel, padded: int
) -> None:
    """Of two images, then one and none; in pieces, and behind each; wider than the widest piece."""
    noise = torch.Generator().manual_seed(2)
    images = list(torch.randn(3, 4, 24, generator=noise))
    prompts = [[1, IMAGE_TOKEN_INDEX, 14, IMAGE_TOKEN_INDEX, 20], [1, IMAGE_TOKEN_INDEX, 9], [7, 8]]
    fusion, language = flamingo.fusion, flamingo.language
    shown = [images[:2], images[2:], []]
    alone = [
        fusion.generation_inputs(language, [ids], own)
        for ids, own in zip(prompts, shown, strict=True)
    ]
    states = torch.randn(3, 2 + padded, 32, generator=noise)
    for written in ([0, 0, 0], [1, 1, 0], [2, 1, 0], [3, 1, 0], [6, 4, 3]):
        new = [min(2, max(1, len(ids) - done)) for ids, done in zip(prompts, written, strict=True)]
        width = max(new) + padded
        joined = fusion.together([one["media"] for one in alone], written, new, width)
        for number, block in enumerate(fusion.blocks):  # type: ignore[arg-type]
            kept = joined.kept[number]
            found = block(states[:, -width:], kept, joined.route(width), joined.present_jm)
            for row, (own, begin, count) in enumerate(zip(alone, written, new, strict=True)):
                media = own["media"]
                seen = media.sees_rt[:, [min(begin + one, media.sees_rt.shape[1] - 1)
                                         for one in range(count)]]  # fmt: skip
                single = Media(media.tokens_jmd, None, seen)
                wanted = block(
                    states[row : row + 1, 2 + padded - count :],
                    block.attention.keys_values(media.tokens_jmd),
                    single.route(count),
                )
                torch.testing.assert_close(found[row, width - count :][None], wanted)


def test_an_image_takes_one_position_whatever_its_tokens(
    flamingo: VisionLanguageModel, flamingo_recipe: Recipe
) -> None:
    assert flamingo.image_tokens == SameTokens(tokens=1)
    assert flamingo.connector.tokens(4) == 4
    with pytest.raises(LaternaError, match="1 image places but 0 images"):
        flamingo.embed(collate([Pack(samples=(chat(1, 1, 3),))]))


def test_gates_and_blocks_train_with_the_connector_and_are_saved(
    flamingo_recipe: Recipe, tmp_path: Path
) -> None:
    model = build_from_recipe(flamingo_recipe)
    apply_stage(model, flamingo_recipe, "align")
    summary = {part.part: part for part in summarize(model, flamingo_recipe.align).parts}
    joins = sum(one.numel() for one in (*model.connector.parameters(), *model.fusion.parameters()))
    assert summary["connector"].trained == joins
    assert summary["language"].trained == 0
    batch = features(collate([Pack(samples=(SAMPLES[3],))]))
    Objective(model)(batch).backward()
    gates = [one.grad for name, one in model.fusion.named_parameters() if name.endswith("gate")]
    assert all(gate is not None and float(gate.abs()) > 0 for gate in gates)
    open_gates(model)
    folder = save_checkpoint(tmp_path / "saved", model, flamingo_recipe, stage="align", figures={})
    again = load_checkpoint(folder)
    assert (folder / "fusion.safetensors").is_file()
    with torch.no_grad():
        assert torch.equal(again.hidden_states(batch), model.hidden_states(batch))


def test_all_weights_take_part_in_a_batch_without_images(flamingo: VisionLanguageModel) -> None:
    """Engines that add up gradients over ranks wait for every weight."""
    flamingo.language.requires_grad_(False)
    Objective(flamingo)(empty_batch()).backward()
    lacking = [
        name
        for part in (flamingo.fusion, flamingo.connector)
        for name, weight in part.named_parameters()
        if weight.grad is None
    ]
    assert lacking == []


def gradients(model: VisionLanguageModel, batch: Batch) -> list[Tensor]:
    model.zero_grad()
    Objective(model)(batch).backward()
    return [one.grad.clone() for one in model.fusion.parameters() if one.grad is not None]


def test_layers_that_compute_again_give_the_same_gradients(flamingo: VisionLanguageModel) -> None:
    batch = features(collate([Pack(samples=(SAMPLES[0], SAMPLES[1]))]))
    kept = gradients(flamingo, batch)
    apply_savings(Objective(flamingo), ["checkpointing"])
    again = gradients(flamingo, batch)
    assert len(again) == len(kept) > 0
    for one, other in zip(again, kept, strict=True):
        torch.testing.assert_close(one, other)


def test_adapters_of_the_language_model_train_beside_the_blocks(
    flamingo_recipe: Recipe, tmp_path: Path
) -> None:
    lora = replace(flamingo_recipe.instruct, language=PartSettings(mode="lora", lr=1e-3))
    recipe = replace(flamingo_recipe, instruct=lora)
    model = build_from_recipe(recipe)
    apply_stage(model, recipe, "instruct")
    open_gates(model)
    batch = features(collate([Pack(samples=(SAMPLES[3],))]))
    Objective(model)(batch).backward()
    with torch.no_grad():
        for name, weight in model.language.named_parameters():
            if ".lora_B" in name:
                assert weight.grad is not None
                weight.copy_(torch.randn_like(weight))
    folder = save_checkpoint(tmp_path / "saved", model.eval(), recipe, stage="instruct", figures={})
    with torch.no_grad():
        torch.testing.assert_close(
            load_checkpoint(folder).hidden_states(batch), model.hidden_states(batch)
        )


@pytest.mark.parametrize(
    ("before", "every", "places"),
    [("last", 1, [0, 1]), ("last", 2, [1]), ("first", 2, [0]), ("first", 1, [0, 1])],
)
def test_blocks_stand_where_the_rule_says(
    flamingo_recipe: Recipe, before: Any, every: int, places: list[int]
) -> None:
    """OpenFlamingo: (i + 1) mod k = 0; IDEFICS: i mod k = 0."""
    model = build_from_recipe(tiny.flamingo(flamingo_recipe, every=every, before=before))
    assert list(model.fusion.places) == places  # type: ignore[arg-type]
    asked = [len(layer._forward_pre_hooks) for layer in model.language.model.layers]
    assert [place for place, hooks in enumerate(asked) if hooks] == places


def test_settings_that_cannot_be_meant_are_refused(flamingo_recipe: Recipe) -> None:
    own = CrossAttentionSettings(every=3)
    with pytest.raises(LaternaError, match=r"every = 3: the language model has 2 layers"):
        build_from_recipe(tiny.flamingo(flamingo_recipe, every=3))
    with pytest.raises(LaternaError, match=r"\[fusion.cross_attention\] is for fusion.kind"):
        fusion_kind(FusionSettings(cross_attention=own))
    with pytest.raises(LaternaError, match="no such kind; use one of prefix, cross_attention"):
        fusion_kind(FusionSettings(kind="fission"))
    assert set(FUSIONS) >= {"prefix", "cross_attention"}
