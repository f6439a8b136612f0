"""Packing: plans that keep their budgets, and rows whose samples do not see each other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaForCausalLM

from laterna.data.batches import collate
from laterna.data.packing import epoch_families, epoch_order, plan_batches, plan_packs
from laterna.records import IMAGE_TOKEN_INDEX, Batch, Pack, Sample

from ..tiny import llama_config


def sample_of(name: str, length: int, image: bool = False, tokens: int = 4) -> Sample:
    generator = torch.Generator().manual_seed(sum(map(ord, name)) + length)
    ids = torch.randint(1, 60, (length,), generator=generator).tolist()
    slots = (1,) if image else ()
    if image:
        ids[1] = IMAGE_TOKEN_INDEX
    targets = tuple(place >= length // 2 for place in range(length))
    return Sample(
        id=name,
        input_ids=tuple(ids),
        targets=targets,
        image_slots=slots,
        image_tokens=(tokens,) if image else (),
    )


def names(packs: list[Pack]) -> list[list[str]]:
    return [[sample.id for sample in pack.samples] for pack in packs]


def test_the_order_of_an_epoch_is_a_permutation_by_seed_and_epoch() -> None:
    assert sorted(epoch_order(50, 0, 0)) == list(range(50))
    assert epoch_order(50, 0, 0).tolist() == epoch_order(50, 0, 0).tolist()
    assert len({tuple(epoch_order(50, s, e)) for s, e in [(0, 0), (0, 1), (1, 0), (1, 1)]}) == 4
    assert epoch_order(0, 0, 0).tolist() == []


@given(st.lists(st.integers(-1, 6), max_size=30), st.integers(0, 3))
def test_families_are_permuted_and_their_samples_stay_in_order(
    images: list[int], epoch: int
) -> None:
    families: dict[object, list[int]] = {}
    for number, image in enumerate(images):
        families.setdefault(f"alone {number}" if image < 0 else image, []).append(number)
    groups = list(families.values())
    expected = [one for group in epoch_order(len(groups), 5, epoch) for one in groups[group]]
    found = epoch_families(np.array(images, np.int64), 5, epoch)
    assert found.tolist() == expected


def test_without_a_budget_each_sample_has_its_row() -> None:
    samples = [sample_of("a", 3), sample_of("b", 9)]
    packs = plan_packs(samples, pack_length=0)
    assert names(packs) == [["a"], ["b"]]


def test_the_longest_come_first_each_into_the_first_row_with_room() -> None:
    lengths = {"a": 3, "b": 7, "c": 2, "d": 6, "e": 12, "f": 4}
    samples = [sample_of(name, length) for name, length in lengths.items()]
    packs = plan_packs(samples, pack_length=10)
    assert names(packs) == [["e"], ["b", "a"], ["d", "f"], ["c"]]


def test_images_count_with_their_tokens() -> None:
    for tokens, rows in [(4, [["a"], ["b"]]), (3, [["a", "b"]])]:
        samples = [sample_of("a", 5, image=True, tokens=tokens), sample_of("b", 3)]
        assert names(plan_packs(samples, pack_length=10)) == rows


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(2, 30), max_size=20),
    pack_length=st.integers(0, 50),
    micro_batch_tokens=st.integers(1, 120),
)
def test_plans_keep_every_sample_and_their_budgets(
    lengths: list[int], pack_length: int, micro_batch_tokens: int
) -> None:
    samples = [sample_of(f"s{place}", length) for place, length in enumerate(lengths)]
    packs = plan_packs(samples, pack_length=pack_length)
    assert sorted(name for pack in names(packs) for name in pack) == sorted(s.id for s in samples)
    if pack_length:
        for pack in packs:
            assert pack.length <= pack_length or len(pack.samples) == 1
    batches = plan_batches(packs, micro_batch_tokens=micro_batch_tokens)
    assert sorted(p for b in batches for p in names(b)) == sorted(names(packs))
    for batch in batches:
        longest = max(pack.length for pack in batch)
        assert len(batch) == 1 or len(batch) * longest <= micro_batch_tokens


def test_rows_of_like_length_share_a_batch() -> None:
    samples = [sample_of(f"{length}", length) for length in (4, 20, 5, 19)]
    packs = plan_packs(samples, pack_length=0)
    batches = plan_batches(packs, micro_batch_tokens=40)
    assert [names(batch) for batch in batches] == [[["20"], ["19"]], [["5"], ["4"]]]


@pytest.fixture(scope="module")
def language() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(llama_config(64, max_position_embeddings=128)).eval()


def logits_of(language: LlamaForCausalLM, batch: Batch) -> torch.Tensor:
    """Logits (r, t, v), as training asks for them: the mask comes from the positions alone."""
    with torch.no_grad():
        return language(
            input_ids=batch.input_ids_rt,
            position_ids=batch.position_ids_rt,
            attention_mask=None,
            use_cache=False,
        ).logits


def loss_of(language: LlamaForCausalLM, batch: Batch) -> torch.Tensor:
    """Sum over the targets of minus the log probability, each from the state before it."""
    targets = batch.loss_mask_rt[:, 1:]
    logits = logits_of(language, batch)[:, :-1][targets]
    return torch.nn.functional.cross_entropy(
        logits, batch.input_ids_rt[:, 1:][targets], reduction="sum"
    )


SAMPLES = [sample_of("a", 9), sample_of("b", 6), sample_of("c", 11), sample_of("d", 5)]


def test_packed_rows_give_the_loss_and_logits_of_separate_ones(language: LlamaForCausalLM) -> None:
    packs = plan_packs(SAMPLES, pack_length=20)
    assert names(packs) == [["c", "a"], ["b", "d"]]
    packed = collate(packs)
    alone = [collate([Pack(samples=(sample,))]) for sample in SAMPLES]
    total = sum(loss_of(language, batch) for batch in alone)
    torch.testing.assert_close(loss_of(language, packed), total, atol=1e-5, rtol=1e-6)

    logits = logits_of(language, packed)
    by_name = {
        sample.id: logits_of(language, one)[0] for sample, one in zip(SAMPLES, alone, strict=True)
    }
    for row, pack in enumerate(packs):
        start = 0
        for sample in pack.samples:
            end = start + sample.length
            torch.testing.assert_close(
                logits[row, start:end], by_name[sample.id], atol=1e-5, rtol=1e-5
            )
            start = end


def test_the_mask_really_blocks(language: LlamaForCausalLM) -> None:
    """Changing the first sample of a row leaves the second as it was, and would not without."""
    first, second = SAMPLES[2], SAMPLES[0]
    other = sample_of("z", len(first.input_ids))
    rows = [collate([Pack(samples=(one, second))]) for one in (first, other)]
    start = len(first.input_ids)
    ours = [logits_of(language, row)[0, start:] for row in rows]
    torch.testing.assert_close(ours[0], ours[1], atol=1e-6, rtol=0)
    with torch.no_grad():
        seen = [language(input_ids=row.input_ids_rt).logits[0, start:] for row in rows]
    assert (seen[0] - seen[1]).abs().max() > 1e-3


def test_padding_changes_nothing_and_stays_finite(language: LlamaForCausalLM) -> None:
    """Padding is a neighbor like any other: it changes nothing before it."""
    short, long = SAMPLES[3], SAMPLES[2]
    batch = collate([Pack(samples=(short,)), Pack(samples=(long,))])
    logits = logits_of(language, batch)
    alone = logits_of(language, collate([Pack(samples=(short,))]))
    torch.testing.assert_close(logits[0, : len(short.input_ids)], alone[0], atol=1e-5, rtol=1e-5)
    assert logits.isfinite().all()


def asked(name: str, image: str, question: tuple[int, ...], answer: tuple[int, ...]) -> Sample:
    ids = (1, IMAGE_TOKEN_INDEX, *question, *answer)
    return Sample(
        id=name,
        input_ids=ids,
        targets=tuple(place >= 2 + len(question) for place in range(len(ids))),
        image_slots=(1,),
        images=(image,),
        image_tokens=(4,),
    )


def test_samples_that_are_asked_the_same_share_the_question() -> None:
    question = tuple(range(10, 16))
    samples = [asked(f"{at}", "cat.png", question, (20 + at, 30)) for at in range(3)]
    (pack,) = plan_packs(samples, pack_length=100, shared_prefix=True)
    assert pack.shared == (0, 8, 8)
    assert pack.length == 1 + 4 + 6 + 3 * 2


def test_who_is_asked_otherwise_shares_the_image_alone() -> None:
    long, other = tuple(range(10, 16)), (40, 41)
    samples = [asked(f"{at}", "cat.png", long, (20 + at, 30)) for at in range(3)]
    samples += [asked("x", "cat.png", other, (50,)), asked("y", "cat.png", (42,), (51,))]
    packs = plan_packs(samples, pack_length=17, shared_prefix=True)
    # Together the image stands once, in 5 tokens; apart the question stands once instead of thrice.
    assert sorted(pack.shared for pack in packs) == [(0, 2), (0, 8, 8)]
    few = [asked("a", "cat.png", (10,), (20,)), asked("b", "cat.png", (10,), (21,)), samples[3]]
    (pack,) = plan_packs(few, pack_length=100, shared_prefix=True)
    assert pack.shared == (0, 2, 2)  # a question of one token is not worth another image
