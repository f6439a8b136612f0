from __future__ import annotations

from collections.abc import Iterable

import msgspec
import pytest
import torch

from laterna.recipe import StageSettings
from laterna.records import IMAGE_TOKEN_INDEX, Batch, Sample
from laterna.training.dataloader import FaultyImageError, Step, count_steps, feed
from laterna.training.parallel import Ranks

STAGE = StageSettings(data="x", global_batch_size=4)
SAMPLES = [
    Sample(
        id=str(number),
        input_ids=(1, IMAGE_TOKEN_INDEX, *range(5, 9 + number)),
        targets=(False, False, *(True,) * (4 + number)),
        image_slots=(1,),
        image_tokens=(3,),
        images=(f"{number}.png",),
    )
    for number in range(10)
]


def fed(stage: StageSettings, seed: int = 0) -> list[list[Batch]]:
    return batches(feed(SAMPLES, stage, seed=seed, fill=lambda batch: batch))


def batches(steps: Iterable[Step]) -> list[list[Batch]]:
    return [list(step.batches) for step in steps]


def ids(steps: list[list[Batch]]) -> list[list[str]]:
    return [[name for batch in step for name in batch.ids] for step in steps]


@pytest.mark.parametrize(
    ("epochs", "max_steps", "sizes"),
    [
        (1.0, 0, [4, 4, 2]),
        (2.0, 0, [4, 4, 4, 4, 4]),
        (0.5, 0, [4, 1]),
        (3.0, 2, [4, 4]),
        (0.001, 0, [1]),
    ],
)
def test_steps_are_as_many_as_epochs_and_limit_say(
    epochs: float, max_steps: int, sizes: list[int]
) -> None:
    stage = msgspec.structs.replace(STAGE, epochs=epochs, max_steps=max_steps)
    assert [len(step) for step in ids(fed(stage))] == sizes
    assert count_steps(len(SAMPLES), stage) == len(sizes)


def test_every_record_comes_once_an_epoch_in_an_order_of_its_own() -> None:
    stage = msgspec.structs.replace(STAGE, epochs=2.0, global_batch_size=5)
    steps = ids(fed(stage))
    first, second = [*steps[0], *steps[1]], [*steps[2], *steps[3]]
    assert sorted(first) == sorted(second) == [str(number) for number in range(10)]
    assert first != second
    assert ids(fed(stage)) == steps
    assert ids(fed(stage, seed=1)) != steps


def test_a_step_is_split_into_micro_batches_within_the_budget() -> None:
    stage = msgspec.structs.replace(
        STAGE, global_batch_size=10, pack_length=24, micro_batch_tokens=48
    )
    [step] = fed(stage)
    assert len(step) > 1
    assert all(batch.input_ids_rt.shape[1] <= 24 for batch in step)
    assert all(batch.input_ids_rt.numel() <= 48 for batch in step)
    assert sorted(ids([step])[0]) == [str(number) for number in range(10)]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_may_begin_at_any_step(workers: int) -> None:
    stage = msgspec.structs.replace(STAGE, epochs=2.3, pack_length=30)
    whole = ids(fed(stage))
    for first in range(len(whole) + 1):
        made = feed(
            SAMPLES,
            stage,
            seed=0,
            fill=lambda batch: batch,
            first_step=first,
            workers=workers,
        )
        assert ids(batches(made)) == whole[first:]


def test_the_rows_of_a_step_are_dealt_to_the_ranks() -> None:
    stage = msgspec.structs.replace(STAGE, global_batch_size=10, epochs=2.0, micro_batch_tokens=24)
    cpu = torch.device("cpu")
    shares = [
        list(feed(SAMPLES, stage, seed=0, fill=lambda batch: batch, ranks=Ranks(rank, 3, cpu)))
        for rank in range(3)
    ]
    whole = list(feed(SAMPLES, stage, seed=0, fill=lambda batch: batch))
    for number, step in enumerate(whole):
        dealt = [share[number].ids for share in shares]
        assert [len(names) for names in dealt] == [4, 3, 3]
        assert sorted(name for names in dealt for name in names) == sorted(step.ids)
    even = [
        list(
            feed(
                SAMPLES[:1],
                STAGE,
                seed=0,
                fill=lambda batch: batch,
                ranks=Ranks(rank, 2, cpu),
                even=True,
            )
        )
        for rank in range(2)
    ]
    assert [[len(step.batches) for step in share] for share in even] == [[1], [1]]
    assert even[1][0].ids == []


def test_records_of_a_image_that_cannot_be_read_are_left_out_and_counted() -> None:
    def fill(batch: Batch) -> Batch:
        for name in batch.images:
            if name in {"2.png", "7.png"}:
                raise FaultyImageError(name, "image missing")
        return batch

    stage = msgspec.structs.replace(STAGE, global_batch_size=10, pack_length=40)
    [step] = feed(SAMPLES, stage, seed=0, fill=fill)
    assert sorted(step.ids) == ["0", "1", "3", "4", "5", "6", "8", "9"]
    assert step.faulty == {"image missing": 2}
    assert step.length == sum(sample.length for sample in SAMPLES if sample.id in step.ids)
    alone = [sample for sample in SAMPLES if sample.id == "2"]
    [step] = feed(alone, stage, seed=0, fill=fill)
    assert (step.batches, step.length, step.faulty) == ((), 0, {"image missing": 1})


def test_records_about_one_image_fall_into_one_step_where_it_is_shared() -> None:
    twins = [
        msgspec.structs.replace(sample, images=(f"{number % 5}.png",))
        for number, sample in enumerate(SAMPLES)
    ]
    stage = msgspec.structs.replace(STAGE, shared_prefix=True)
    steps = batches(feed(twins, stage, seed=0, fill=lambda batch: batch))
    taken = [name for step in ids(steps) for name in step]
    assert sorted(taken) == [str(number) for number in range(10)]
    assert {int(a) % 5 == int(b) % 5 for a, b in zip(taken[::2], taken[1::2], strict=True)} == {
        True
    }
    # Each step's four records show two images, whose tokens stand in its rows once.
    assert [sum(len(batch.images) for batch in step) for step in steps] == [2, 2, 1]
    again = batches(feed(twins, stage, seed=0, fill=lambda batch: batch, first_step=1))
    assert ids(again) == ids(steps)[1:]
