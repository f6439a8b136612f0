"""Rows that share an image: who sees whom, the same loss as alone, and the probe for leaks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor

from laterna.data.batches import collate
from laterna.data.chat import load_template
from laterna.data.images.tokens import count_images
from laterna.data.masking import tokenize
from laterna.data.packing import plan_batches, plan_packs, without_image
from laterna.errors import LaternaError
from laterna.model.attention.shared_prefix import (
    FLEX,
    require_packing,
    shared_prefix_mask,
    visible,
)
from laterna.model.attention.varlen import SEGMENTS, use_varlen_attention
from laterna.model.vlm import VisionLanguageModel
from laterna.recipe import Recipe, StageName
from laterna.records import (
    IMAGE_TOKEN_INDEX,
    Batch,
    InstructionRecord,
    Pack,
    Sample,
    Turn,
)
from laterna.training.objective import Objective, count_targets
from laterna.training.stages import apply_stage

FEATURES = {name: torch.randn(4, 24) for name in ("a.png", "b.png", "c.png")}


def toy(name: str, *rest: int, image: str = "a.png") -> Sample:
    return Sample(
        id=name,
        input_ids=(1, IMAGE_TOKEN_INDEX, *rest),
        targets=(False, False, *(True for _ in rest)),
        image_slots=(1,),
        images=(image,),
        image_tokens=(2,),
    )


def samples(assistant: VisionLanguageModel, stage: StageName) -> list[Sample]:
    """Five captions of one image, three talks about another, and three that can share nothing."""
    template = load_template("plain", assistant.tokenizer) if stage == "align" else None
    asked = {
        "a.png": ["<image>\n"] * 5,
        "b.png": ["<image>\nIs it red?", "<image>\nHow many?", "<image>\nIs it red?"],
        "c.png": ["Is it red?\n<image>", "<image>\nIs it red?"],
        "": ["Is it red?"],
    }
    found = []
    for image, questions in asked.items():
        for question in questions:
            number = len(found)
            turns = (
                Turn(role="user", text=question),
                Turn(role="assistant", text="The bicycle is red. " * (number % 3 + 1), loss=True),
            )
            if stage == "instruct":
                turns += (
                    Turn(role="user", text="What else?"),
                    Turn(role="assistant", text="A" + " banana" * number, loss=True),
                )
            shown = (image,) if image else ()
            record = InstructionRecord(id=str(number), images=shown, turns=turns)
            sample = tokenize(record, assistant.tokenizer, template)
            found.append(count_images(sample, assistant.image_tokens, None))
    return found


def batches(found: list[Sample], *, pack_length: int, share: bool) -> list[Batch]:
    packs = plan_packs(
        found, pack_length=pack_length, shared_prefix=share, micro_batch_tokens=10_000
    )
    made = []
    for rows in plan_batches(packs, micro_batch_tokens=400):
        batch = collate(rows)
        features = [FEATURES[name] for name in batch.images]
        given = torch.stack(features) if features else None
        made.append(msgspec.structs.replace(batch, features_bnd=given))
    return made


def learned(assistant: VisionLanguageModel, split: list[Batch]) -> tuple[Tensor, list[Tensor]]:
    """The loss of a step and its gradients, as the training loop makes them."""
    assistant.zero_grad(set_to_none=True)
    objective, targets = Objective(assistant), count_targets(split)
    total = torch.zeros(())
    for batch in split:
        loss = objective(batch) / targets
        loss.backward()
        total += loss.detach()
    return total, [weight.grad for weight in assistant.parameters() if weight.grad is not None]


@pytest.mark.parametrize("attention", ["sdpa", "eager", SEGMENTS])
@pytest.mark.parametrize("pack_length", [0, 120, 300])
@pytest.mark.parametrize("stage", ["align", "instruct"])
def test_loss_and_gradients_are_those_of_separate_rows(
    tiny_assistant: VisionLanguageModel,
    tiny_recipe: Recipe,
    stage: StageName,
    pack_length: int,
    attention: str,
) -> None:
    apply_stage(tiny_assistant, tiny_recipe, stage)
    found = samples(tiny_assistant, stage)
    alone = batches(found, pack_length=0, share=False)
    shared = batches(found, pack_length=pack_length, share=True)
    assert any(batch.sharing is not None for batch in shared)
    assert count_targets(shared) == count_targets(alone)
    assert sum(len(b.images) for b in shared) < sum(len(b.images) for b in alone)
    loss, gradients = learned(tiny_assistant, alone)
    _attend_by(tiny_assistant.language, attention)
    loss_shared, gradients_shared = learned(tiny_assistant, shared)
    torch.testing.assert_close(loss_shared, loss, atol=1e-5, rtol=0)
    assert len(gradients) == len(gradients_shared)
    for ours, theirs in zip(gradients_shared, gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("attention", ["sdpa", SEGMENTS])
def test_packed_strangers_learn_as_alone(
    tiny_assistant: VisionLanguageModel, tiny_recipe: Recipe, attention: str
) -> None:
    """Rows of several samples and some padding, none of which share an image."""
    apply_stage(tiny_assistant, tiny_recipe, "instruct")
    found = samples(tiny_assistant, "instruct")
    packed = batches(found, pack_length=150, share=False)
    assert all(batch.sharing is None for batch in packed)
    assert any((batch.position_ids_rt == 0).sum() > 2 for batch in packed)
    loss, gradients = learned(tiny_assistant, batches(found, pack_length=0, share=False))
    _attend_by(tiny_assistant.language, attention)
    loss_packed, gradients_packed = learned(tiny_assistant, packed)
    torch.testing.assert_close(loss_packed, loss, atol=1e-5, rtol=0)
    for ours, theirs in zip(gradients_packed, gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def _attend_by(language: Any, attention: str) -> None:
    if attention == SEGMENTS:
        use_varlen_attention(language)
    else:
        language.set_attn_implementation(attention)


def test_a_shared_row_number_by_number() -> None:
    found = [toy("a", 5, 6), toy("b", 7), toy("c", 8, image="b.png")]
    packs = plan_packs(found, pack_length=20, shared_prefix=True)
    assert [pack.shared for pack in packs] == [(0, 2, 0)]
    assert packs[0].length == 5 + 1 + 4
    batch = collate(packs)
    assert batch.ids == ("a", "b", "c")
    assert batch.images == ("a.png", "b.png")
    assert batch.image_tokens == (2, 2)
    assert batch.input_ids_rt.tolist() == [[1, 0, 0, 5, 6, 7, 1, 0, 0, 8]]
    assert batch.position_ids_rt.tolist() == [[0, 1, 2, 3, 4, 3, 0, 1, 2, 3]]
    assert batch.loss_mask_rt.int().tolist() == [[0, 0, 0, 1, 1, 1, 0, 0, 0, 1]]
    assert batch.sharing is not None
    assert batch.sharing.predicted_from_rt.tolist() == [[0, 0, 1, 2, 3, 2, 5, 6, 7, 8]]
    seen = visible(batch.sharing)[0].int().tolist()
    assert seen[4] == [1, 1, 1, 1, 1, 0, 0, 0, 0, 0]
    assert seen[5] == [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]
    assert seen[9] == [0, 0, 0, 0, 0, 0, 1, 1, 1, 1]


def test_gradients_of_a_shared_place_add_up_in_the_same_order(
    tiny_assistant: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hundreds of captions begin behind one image: a run and its resumption must not differ."""
    many = plan_packs([toy(str(n), n % 9 + 5, 4) for n in range(800)], pack_length=0,
                      shared_prefix=True)  # fmt: skip
    batch = collate(many)
    states_rtd = torch.zeros(*batch.input_ids_rt.shape, 64, requires_grad=True)
    monkeypatch.setattr(tiny_assistant.fusion, "hidden_states", lambda *_: states_rtd)
    monkeypatch.setattr(tiny_assistant, "_images", lambda _: [])
    upwards_sd = torch.randn(1600, 64, generator=torch.Generator().manual_seed(0))

    def gradient() -> Tensor:
        (found,) = torch.autograd.grad(
            tiny_assistant.target_states(batch)[0], states_rtd, upwards_sd
        )
        return found

    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        first = gradient()
        assert all(torch.equal(first, gradient()) for _ in range(30))
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(first[0, 2], upwards_sd[::2].sum(0), atol=1e-4, rtol=0)


def test_a_family_is_cut_to_the_budget() -> None:
    found = [toy(str(number), *range(3, 8)) for number in range(5)]
    packs = plan_packs(found, pack_length=14, shared_prefix=True)
    assert [len(pack.samples) for pack in packs] == [2, 2, 1]
    assert [pack.length for pack in packs] == [13, 13, 8]
    assert [pack.shared for pack in packs] == [(0, 2), (0, 2), ()]
    one_row = plan_packs(found, pack_length=0, shared_prefix=True, micro_batch_tokens=0)
    assert [pack.length for pack in one_row] == [3 + 5 * 5]


def test_what_differs_before_the_image_is_not_shared() -> None:
    other = msgspec.structs.replace(toy("b", 7), input_ids=(2, IMAGE_TOKEN_INDEX, 7))
    learned_before = msgspec.structs.replace(toy("c", 7), targets=(False, True, True))
    packs = plan_packs([toy("a", 5), other, learned_before], pack_length=0, shared_prefix=True)
    assert [pack.shared for pack in packs] == [(), (), ()]


def test_without_a_image_the_others_share_what_they_did() -> None:
    two = msgspec.structs.replace(
        toy("first", 5, IMAGE_TOKEN_INDEX, 6),
        targets=(False, False, False, False, True),
        image_slots=(1, 3),
        images=("a.png", "broken.png"),
        image_tokens=(2, 3),
    )
    (pack,) = plan_packs([two, toy("b", 7), toy("c", 8)], pack_length=50, shared_prefix=True)
    assert pack.shared == (0, 2, 2)
    assert collate([pack]).images == ("a.png", "broken.png")
    left = without_image(pack, "broken.png")
    assert [sample.id for sample in left.samples] == ["b", "c"]
    assert left.shared == (0, 2)


@torch.no_grad()
def test_siblings_do_not_see_each_other(tiny_assistant: VisionLanguageModel) -> None:
    packs = [
        plan_packs([toy("a", 5, first), toy("b", 7, 8)], pack_length=50, shared_prefix=True)
        for first in (6, 60)
    ]
    seen = []
    for rows in packs:
        batch = collate(rows)
        given = torch.stack([FEATURES["a.png"][:2]])
        tokens = tiny_assistant.connector(given)
        embeds = tiny_assistant.fusion.embed(tiny_assistant.language, batch, tokens.unbind())
        states = tiny_assistant.language.get_decoder()(
            inputs_embeds=embeds,
            position_ids=batch.position_ids_rt,
            attention_mask=shared_prefix_mask(
                batch.sharing, batch.position_ids_rt, tiny_assistant.language
            ),
            use_cache=False,
        ).last_hidden_state
        seen.append(states[0, 5:])
    assert torch.equal(seen[0], seen[1])


def test_the_probe_passes_what_keeps_samples_apart(tiny_assistant: VisionLanguageModel) -> None:
    for attention in ("sdpa", "eager", SEGMENTS):
        _attend_by(tiny_assistant.language, attention)
        require_packing(tiny_assistant.language, shared_prefix=True)


def leaky(language: Any, **forced: Any) -> Any:
    """The language model, asked with other arguments than it is given."""
    decoder = language.get_decoder()

    def get_decoder() -> Any:
        def run(**arguments: Any) -> Any:
            tokens = arguments["inputs_embeds"].shape[1]
            changed = {name: make(tokens) for name, make in forced.items()}
            return decoder(**{**arguments, **changed})

        return run

    return SimpleNamespace(
        get_decoder=get_decoder,
        get_input_embeddings=language.get_input_embeddings,
        config=language.config,
    )


def test_the_probe_finds_packed_samples_that_see_each_other(
    tiny_assistant: VisionLanguageModel,
) -> None:
    """With an attention mask of ones, transformers forgets that positions restart, silently.

    If this fails, transformers has changed, for the better: see `PrefixFusion.hidden_states`.
    """
    masked = leaky(
        tiny_assistant.language,
        attention_mask=lambda tokens: torch.ones(1, tokens, dtype=torch.long),
    )
    with pytest.raises(
        LaternaError, match=r"packed rows \(pack_length\) cannot be used: .* differ"
    ):
        require_packing(masked, shared_prefix=False)
    cached = leaky(tiny_assistant.language, use_cache=lambda _: True)
    with pytest.raises(LaternaError, match="the samples of a row see each other"):
        require_packing(cached, shared_prefix=False)


def test_the_probe_finds_siblings_that_see_each_other(tiny_assistant: VisionLanguageModel) -> None:
    language = leaky(tiny_assistant.language, attention_mask=lambda _: None)
    with pytest.raises(LaternaError, match=r"shared images \(shared_prefix\) cannot be used"):
        require_packing(language, shared_prefix=True)


@pytest.mark.slow
@torch.no_grad()
def test_flex_attention_sees_what_the_float_mask_shows(tiny_assistant: VisionLanguageModel) -> None:
    """The forward pass alone: torch's flex attention has no backward on a CPU."""
    packs = plan_packs(samples(tiny_assistant, "instruct"), pack_length=200, shared_prefix=True)
    batch = collate(packs[:1])
    features = torch.stack([FEATURES[name] for name in batch.images])
    batch = msgspec.structs.replace(batch, features_bnd=features)
    expected, _ = tiny_assistant.target_logits(batch)
    tiny_assistant.language.set_attn_implementation(FLEX)
    logits, _ = tiny_assistant.target_logits(batch)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)


def test_a_pack_of_strangers_has_no_mask(tiny_assistant: VisionLanguageModel) -> None:
    batch = collate([Pack(samples=(toy("a", 5), toy("b", 6)))])
    assert batch.sharing is None
    assert shared_prefix_mask(batch.sharing, batch.position_ids_rt, tiny_assistant.language) is None
