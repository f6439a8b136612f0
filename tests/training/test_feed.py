from __future__ import annotations

import msgspec
import pytest

from laterna.recipe import StageSettings
from laterna.records import PICTURE_TOKEN, Batch, Sample
from laterna.training.feed import count_steps, feed

STAGE = StageSettings(data="a.json", pictures="", batch_records=4)
SAMPLES = [
    Sample(
        id=str(number),
        input_ids=(1, PICTURE_TOKEN, *range(5, 9 + number)),
        targets=(False, False, *(True,) * (4 + number)),
        picture_slots=(1,),
        picture_tokens=(3,),
        pictures=(f"{number}.png",),
    )
    for number in range(10)
]


def fed(stage: StageSettings, seed: int = 0) -> list[list[Batch]]:
    return list(feed(SAMPLES, stage, seed=seed, fill=lambda batch: batch))


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
    stage = msgspec.structs.replace(STAGE, epochs=2.0, batch_records=5)
    steps = ids(fed(stage))
    first, second = [*steps[0], *steps[1]], [*steps[2], *steps[3]]
    assert sorted(first) == sorted(second) == [str(number) for number in range(10)]
    assert first != second
    assert ids(fed(stage)) == steps
    assert ids(fed(stage, seed=1)) != steps


def test_a_step_is_split_into_micro_batches_within_the_budget() -> None:
    stage = msgspec.structs.replace(STAGE, batch_records=10, row_tokens=24, micro_tokens=48)
    [step] = fed(stage)
    assert len(step) > 1
    assert all(batch.input_ids_rt.shape[1] <= 24 for batch in step)
    assert all(batch.input_ids_rt.numel() <= 48 for batch in step)
    assert sorted(ids([step])[0]) == [str(number) for number in range(10)]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_may_begin_at_any_step(workers: int) -> None:
    stage = msgspec.structs.replace(STAGE, epochs=2.3, row_tokens=30)
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
        assert ids(list(made)) == whole[first:]
