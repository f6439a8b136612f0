from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from laterna.scenes.geometry import PLACES, place_of
from laterna.scenes.phrases import NUMBERS
from laterna.scenes.vocabulary import plural
from laterna.world.scenes import draw_truth
from laterna.world.toys import CATEGORIES, COLOURS
from pretrain_nano.tables import NOTHING, write_counts, write_relations, write_table


@pytest.mark.parametrize("index", range(60))
def test_every_entry_is_true_and_every_toy_is_in_one(index: int) -> None:
    truth = draw_truth("pretrain", 3, index)
    toys = [
        (t.category, t.colour, place_of((t.box.x1 + t.box.x2) / 2, (t.box.y1 + t.box.y2) / 2))
        for t in truth.toys
    ]
    counts = Counter(category for category, _, _ in toys)
    table = write_table(truth, np.random.default_rng(index))
    assert sorted(n for entry in table for n in entry.toys) == list(range(len(toys)))
    assert [entry.value for entry in table].count(NOTHING) == 1
    for key, value, numbers in table:
        if key in CATEGORIES:
            single = {f"{colour}, {place}" for name, colour, place in toys if name == key}
            expected = single if counts[key] == 1 else {NUMBERS[counts[key]]}
        elif key in COLOURS:
            expected = {", ".join(sorted(name for name, colour, _ in toys if colour == key))}
        else:
            assert key in PLACES.values()
            expected = {", ".join(sorted(f"{c} {name}" for name, c, place in toys if place == key))}
        assert value in expected or (value == NOTHING and expected <= {"", NUMBERS[0]})
        assert bool(numbers) is (value != NOTHING)


def test_half_of_what_is_there_is_looked_up_by_its_kind() -> None:
    keys = Counter[str]()
    for index in range(400):
        for key, _, numbers in write_table(
            draw_truth("pretrain", 4, index, max_toys=1), np.random.default_rng(index)
        ):
            if numbers:
                keys["kind" if key in CATEGORIES else "colour" if key in COLOURS else "place"] += 1
    assert keys["kind"] / keys.total() == pytest.approx(0.5, abs=0.07)
    assert keys["colour"] / keys.total() == pytest.approx(0.25, abs=0.06)


@pytest.mark.parametrize("index", range(40))
def test_relations_tell_of_every_pair_how_it_stands(index: int) -> None:
    truth = draw_truth("pretrain", 5, index)
    counts = Counter(toy.category for toy in truth.toys)
    single = {toy.category: toy.box for toy in truth.toys if counts[toy.category] == 1}
    relations = {
        entry.key: entry.value for entry in write_relations(truth, np.random.default_rng(0))
    }
    assert len(relations) == len(single) * (len(single) - 1)
    for key, value in relations.items():
        one, other = (single[name] for name in key.split(", "))
        across = (one.x1 + one.x2 - other.x1 - other.x2) / 2
        down = (one.y1 + one.y2 - other.y1 - other.y2) / 2
        words = set(value.split(", "))
        assert ("left" in words) is (across < -0.1)
        assert ("right" in words) is (across > 0.1)
        assert ("above" in words) is (down < -0.1)
        assert ("below" in words) is (down > 0.1)
        assert (value == NOTHING) is (abs(across) <= 0.1 and abs(down) <= 0.1)


@pytest.mark.parametrize("index", range(40))
def test_counts_tell_how_many_there_are_of_every_kind_and_colour(index: int) -> None:
    truth = draw_truth("pretrain", 6, index)
    table = write_counts(truth, np.random.default_rng(index))
    kinds = Counter(plural(toy.category) for toy in truth.toys)
    colours = Counter(f"{toy.colour} things" for toy in truth.toys)
    expected = {**kinds, **colours, "things": len(truth.toys)}
    assert {entry.key: entry.value for entry in table} == {
        key: NUMBERS[number] for key, number in expected.items()
    }
    assert all(len(entry.toys) == expected[entry.key] for entry in table)
