"""Records with several images anywhere: what is learned of them, by hand, for every fusion."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from torch import Tensor
from torch.nn.functional import cross_entropy

from laterna.data.batches import collate
from laterna.data.masking import tokenize
from laterna.model.build import build_from_recipe
from laterna.model.fusion.cross_attention import Media
from laterna.model.vlm import VisionLanguageModel
from laterna.recipe import Recipe
from laterna.records import IMAGE_TOKEN_INDEX, Batch, InstructionRecord, Pack, Sample, Turn
from laterna.training.objective import Objective

from ...tiny import encoder_decoder, flamingo

FUSIONS = ("prefix", "cross_attention", "encoder_decoder")
RECORD = InstructionRecord(
    id="album",
    images=("a.png", "b.png", "c.png"),
    turns=(
        Turn(role="user", text="Here is <image> and there is <image>. Which is red?"),
        Turn(role="assistant", text="The first is red.", loss=True),
        Turn(role="user", text="Beside <image>, is it blue?"),
        Turn(role="assistant", text="It is green.", loss=True),
    ),
)
OTHER = replace(
    RECORD,
    id="pair",
    images=("d.png", "e.png"),
    turns=(
        Turn(role="user", text="<image>\n<image>\nWhich of the two?"),
        Turn(role="assistant", text="The second.", loss=True),
    ),
)


@pytest.fixture(params=FUSIONS)
def model(
    request: pytest.FixtureRequest, tiny_recipe: Recipe, tiny_tokenizer: Any, tmp_path: Path
) -> VisionLanguageModel:
    """An untrained assistant of each fusion, in float64, its gates open."""
    torch.manual_seed(0)
    made: dict[str, Callable[[], Recipe]] = {
        "prefix": lambda: tiny_recipe,
        "cross_attention": lambda: flamingo(tiny_recipe, gate=1.0),
        "encoder_decoder": lambda: encoder_decoder(tiny_recipe, tiny_tokenizer, tmp_path / "t5"),
    }
    return build_from_recipe(made[request.param]()).double()


def sample_of(model: VisionLanguageModel, record: InstructionRecord) -> Sample:
    sample = tokenize(record, model.tokenizer, model.template)
    tokens = model.image_tokens(28, 28)
    return replace(sample, image_tokens=(tokens,) * len(record.images))


def features(names: tuple[str, ...], **changed: Tensor) -> Tensor:
    """Features (b, 4, 24) that belong to an image's name."""
    drawn = []
    for name in names:
        letter = name[0]
        generator = torch.Generator().manual_seed(ord(letter))
        own = torch.randn(4, 24, generator=generator, dtype=torch.double)
        drawn.append(changed.get(letter, own))
    return torch.stack(drawn)


def batch_of(packs: list[Pack], **changed: Tensor) -> Batch:
    batch = collate(packs)
    return replace(batch, features_bnd=features(batch.images, **changed))


def by_hand(model: VisionLanguageModel, sample: Sample) -> tuple[Tensor, Tensor]:
    """Return logits (s, v) at the answers' tokens and their ids, one place after another."""
    language, table = model.language, model.language.get_input_embeddings()
    images = list(model.connect(features(sample.images)))
    beside = model.fusion.beside_row
    row: list[Tensor] = []
    ids: list[int] = []
    learned: list[bool] = []
    sees: list[int] = []
    seen = 0
    for token, target in zip(sample.input_ids, sample.targets, strict=True):
        if token != IMAGE_TOKEN_INDEX:
            row.append(table(torch.tensor([token])))
        elif beside:
            row.append(model.fusion.mark[None])  # type: ignore[index]
        else:
            row.append(images[seen])
        seen += token == IMAGE_TOKEN_INDEX
        ids += [token] * len(row[-1])
        learned += [target] * len(row[-1])
        sees += [seen] * len(row[-1])
    embeds = torch.cat(row)[None]
    labels = torch.tensor([one for one, yes in zip(ids, learned, strict=True) if yes])
    places = torch.tensor(learned).nonzero()[:, 0]
    if model.fusion.encodes:
        return _by_the_decoder(language, embeds, labels, places), labels
    media = Media(torch.stack(images), None, torch.tensor([sees])) if beside else None
    with model.fusion.beside(media):
        logits = language(inputs_embeds=embeds).logits[0]
    return logits[places - 1], labels


def _by_the_decoder(language: Any, embeds: Tensor, labels: Tensor, places: Tensor) -> Tensor:
    found = []
    starts = [n for n in range(len(places)) if n == 0 or places[n] > places[n - 1] + 1]
    for begin, end in zip(starts, [*starts[1:], len(places)], strict=True):
        before = embeds[:, : int(places[begin])]
        found.append(language(inputs_embeds=before, labels=labels[None, begin:end]).logits[0])
    return torch.cat(found)


@torch.no_grad()
def test_what_is_learned_is_what_is_computed_by_hand(model: VisionLanguageModel) -> None:
    sample = sample_of(model, RECORD)
    assert len(sample.image_slots) == 3
    batch = batch_of([Pack(samples=(sample,))])
    logits_sv, labels_s = model.target_logits(batch)
    hand_sv, hand_s = by_hand(model, sample)
    assert torch.equal(labels_s, hand_s)
    torch.testing.assert_close(logits_sv, hand_sv, atol=1e-9, rtol=0)
    loss = Objective(model)(batch)
    assert float(loss) == pytest.approx(float(cross_entropy(hand_sv, hand_s, reduction="sum")))


@torch.no_grad()
def test_packed_records_are_what_they_are_alone(model: VisionLanguageModel) -> None:
    samples = [sample_of(model, one) for one in (RECORD, OTHER)]
    logits_sv, labels_s = model.target_logits(batch_of([Pack(samples=tuple(samples))]))
    hands = [by_hand(model, one) for one in samples]
    assert torch.equal(labels_s, torch.cat([labels for _, labels in hands]))
    torch.testing.assert_close(logits_sv, torch.cat([one for one, _ in hands]), atol=1e-9, rtol=0)


@torch.no_grad()
def test_each_image_reaches_what_is_said_behind_it_and_nothing_before(
    model: VisionLanguageModel,
) -> None:
    pack = Pack(samples=(sample_of(model, RECORD),))
    own_sv, labels_s = model.target_logits(batch_of([pack]))
    answers = [one.text for one in RECORD.turns if one.loss]
    first = len(tokenize_answer(model, answers[0]))
    for letter in "abc":
        changed_sv, _ = model.target_logits(
            batch_of([pack], **{letter: torch.ones(4, 24).double()})
        )
        moved = (changed_sv - own_sv).abs().amax(dim=1)
        assert (moved[first:] > 1e-6).all(), letter
        assert bool((moved[:first] > 1e-6).all()) == (letter != "c"), letter
        assert letter != "c" or float(moved[:first].max()) == 0
    assert len(labels_s) > first


def tokenize_answer(model: VisionLanguageModel, answer: str) -> list[int]:
    """Return the ids that are learned of an answer, its end of turn included."""
    turns = (Turn(role="user", text="a"), Turn(role="assistant", text=answer, loss=True))
    alone = tokenize(
        InstructionRecord(id="1", images=(), turns=turns), model.tokenizer, model.template
    )
    return [token for token, target in zip(alone.input_ids, alone.targets, strict=True) if target]


@torch.no_grad()
def test_the_order_of_images_counts(model: VisionLanguageModel) -> None:
    sample = sample_of(model, OTHER)
    turned = replace(sample, images=sample.images[::-1])
    one, other = (model.target_logits(batch_of([Pack(samples=(s,))]))[0] for s in (sample, turned))
    assert float((one - other).abs().max()) > 1e-6
    same, _ = model.target_logits(batch_of([Pack(samples=(sample,))]))
    assert torch.equal(one, same)
