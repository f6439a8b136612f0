"""Intervals hold what they say, tests tell runs apart, and both are right by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from laterna.errors import LaternaError
from laterna.evaluation import statistics as st
from laterna.evaluation.distributions import t_quantile, t_tail


def test_wilson_by_hand() -> None:
    """z = 1.959964: (0.8 + 0.192073) / 1.384146 ± 1.959964 / 1.384146 · sqrt(0.016 + 0.009604)."""
    low, high = st.wilson(0.8, 10)
    assert (low, high) == pytest.approx((0.490162, 0.943318), abs=1e-6)
    assert st.wilson(0.0, 5)[0] == 0.0
    assert st.wilson(1.0, 5)[1] == 1.0
    assert all(map(math.isnan, st.wilson(0.5, 0)))


def test_a_share_has_wilsons_interval_and_other_scores_the_bootstraps() -> None:
    shares = st.interval([1.0, 0.0, 1.0, 1.0])
    assert (shares.mean, shares.method) == (0.75, "wilson")
    assert (shares.low, shares.high) == st.wilson(0.75, 4)
    soft = st.interval([0.3, 0.9, 0.6, 1.0] * 25)
    assert soft.method == "bootstrap"
    reach = 1.96 * st.standard_error([0.3, 0.9, 0.6, 1.0] * 25)
    assert (soft.low, soft.high) == pytest.approx((0.7 - reach, 0.7 + reach), abs=0.01)
    assert st.interval([0.3, 0.9, 0.6, 1.0] * 25) == soft
    assert math.isnan(st.interval([]).low)


@pytest.mark.parametrize("soft", [False, True])
def test_questions_about_one_image_count_as_one(soft: bool) -> None:
    """Six answers an image that are all alike tell no more than one does."""
    rng = np.random.default_rng(0)
    drawn = rng.random(50) if soft else (rng.random(50) < 0.7).astype(float)
    alone = st.interval([*drawn])
    images = [image for image in range(50) for _ in range(6)]
    repeated = st.interval([*np.repeat(drawn, 6)], images)
    blind = st.interval([*np.repeat(drawn, 6)])
    assert repeated.method.endswith("by image")
    assert repeated.high - repeated.low == pytest.approx(alone.high - alone.low, rel=0.05)
    assert blind.high - blind.low < 0.5 * (alone.high - alone.low)
    assert st.interval([*drawn], list(range(50))) == alone


def test_all_right_about_few_images_is_still_unsure() -> None:
    found = st.interval([1.0] * 60, [number // 6 for number in range(60)])
    assert (found.low, found.high) == st.wilson(1.0, 10)
    one = st.interval([1.0, 1.0, 0.0, 1.0], ["a"] * 4)
    assert (one.low, one.high) == st.wilson(0.75, 1)
    soft = st.interval([0.5, 0.25], ["a", "a"])
    assert math.isnan(soft.low) and math.isnan(soft.high)
    assert math.isnan(st.interval([0.5]).low)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Of 400 draws of 80 questions over 20 images, 95 % hold it; three deviations are 3.3 %."""
    rng = np.random.default_rng(1)
    images = [number // 4 for number in range(80)]
    held = 0
    for _ in range(400):
        ease = np.repeat(rng.normal(0, 0.8, 20), 4)
        answers = (rng.random(80) < 1 / (1 + np.exp(-ease))).astype(float)
        found = st.interval([*answers], images)
        held += found.low <= 0.5 <= found.high
    assert 0.917 <= held / 400 <= 0.983


def test_students_t_by_the_tables() -> None:
    assert 2 * t_tail(2.228138852, 10) == pytest.approx(0.05, abs=1e-10)
    assert t_tail(0.0, 3) == 0.5
    assert t_tail(1.0, 1) == pytest.approx(0.25, abs=1e-14)  # Cauchy's
    assert t_quantile(0.975, 1) == pytest.approx(12.706204736174698, abs=1e-9)
    assert t_quantile(0.975, 10**6) == pytest.approx(1.959966, abs=1e-6)
    assert t_tail(40.0, 2000) < 1e-200


def test_paired_t_by_hand() -> None:
    """Differences 0.1, 0.3, 0.2: mean 0.2, error 0.1 / sqrt(3)."""
    found = st.paired_t([0.5, 0.9, 0.7], [0.4, 0.6, 0.5])
    assert found.difference.mean == pytest.approx(0.2)
    assert found.standard_error == pytest.approx(0.1 / math.sqrt(3))
    assert found.t == pytest.approx(2 * math.sqrt(3))
    assert found.p == pytest.approx(0.0741799, abs=1e-7)
    same = st.paired_t([1.0, 0.0], [1.0, 0.0])
    assert (same.t, same.p, same.standard_error) == (0.0, 1.0, 0.0)
    assert math.isnan(st.paired_t([1.0], [0.0]).p)


def test_mcnemar_counts_what_one_run_alone_has_right() -> None:
    first = [1.0] * 8 + [0.0] * 2 + [1.0] * 5
    second = [0.0] * 8 + [1.0] * 2 + [1.0] * 5
    found = st.mcnemar(first, second)
    assert (found.only_first, found.only_second) == (8, 2)
    assert found.p == pytest.approx(2 * (1 + 10 + 45) / 1024)
    assert st.mcnemar([1.0], [1.0]).p == 1.0
    with pytest.raises(LaternaError, match="scores that are 0 or 1"):
        st.mcnemar([0.5], [1.0])


def test_compare_tells_two_runs_apart() -> None:
    first, second = [1.0] * 80 + [0.0] * 20, [1.0] * 60 + [0.0] * 40
    found = st.compare(first, second)
    assert found.bootstrap.mean == pytest.approx(0.2)
    assert (found.bootstrap.low, found.bootstrap.high) == pytest.approx((0.12, 0.28), abs=0.011)
    assert found.mcnemar is not None
    assert found.mcnemar.p == pytest.approx(2**-19)
    assert found.needed == 32  # (1.96 + 0.84)² · 0.1616 / 0.04
    by_image = st.compare(first, second, [number // 10 for number in range(100)])
    assert by_image.bootstrap.method == "bootstrap by image"
    assert by_image.bootstrap.low == 0.0  # two of ten images differ: a resample may hold neither
    soft = st.compare([0.5, 0.25], [0.5, 0.25])
    assert (soft.mcnemar, soft.needed) == (None, None)


def test_runs_over_other_questions_cannot_be_compared() -> None:
    with pytest.raises(LaternaError, match="these have 2 and 1 scores"):
        st.compare([1.0, 0.0], [1.0])
    with pytest.raises(LaternaError, match="without a common question"):
        st.compare([], [])
    with pytest.raises(LaternaError, match="2 scores have 1 clusters"):
        st.standard_error([1.0, 0.0], ["a"])


def test_questions_needed() -> None:
    """(1.959964 + 0.841621)² · 0.25 / 0.0009 = 2180.2."""
    assert st.questions_needed(0.03, 0.5) == 2181
    assert st.questions_needed(-0.03, 0.5) == 2181
    assert st.questions_needed(0.03, 0.5**0.5) == 4361
    assert st.questions_needed(0.03, 0.0) == 1
    with pytest.raises(LaternaError, match="do not differ"):
        st.questions_needed(0.0, 0.5)
    scores = [1.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.0]
    spread = (1 / 3) ** 0.5  # of 1, 0, 0, 1 about 0.5
    assert st.compare(*scores).needed == st.questions_needed(0.5, spread) == 11


def test_left_out_one_by_one_a_mean_has_students_interval() -> None:
    """Of a mean, the jackknife's error is the standard error itself."""
    scores = [0.1, 0.9, 0.4, 0.4, 1.0]

    def values(numbers: Sequence[int]) -> dict[str, float]:
        share = sum(scores[number] for number in numbers) / len(numbers)
        undefined = share if 0 in numbers else math.nan
        return {"mean": share, "undefined": undefined, "count": len(numbers)}

    reach = 2.7764451051978 * st.standard_error(scores)
    assert st.value_intervals(values, "abcde") == {
        "mean": pytest.approx((0.56 - reach, 0.56 + reach), abs=1e-9)
    }
    assert st.value_intervals(values, "aaaaa") == {}
    assert st.value_intervals(lambda _: {}, []) == {}


def test_parts_of_whole_images_are_left_out_and_nothing_comes_twice() -> None:
    images = [number // 4 for number in range(1000)]
    given: list[Sequence[int]] = []

    def values(numbers: Sequence[int]) -> dict[str, float]:
        given.append(numbers)
        return {"share": sum(images[number] % 2 for number in numbers) / len(numbers)}

    low, high = st.value_intervals(values, images, groups=25)["share"]
    assert [len(numbers) for numbers in given] == [1000] + [960] * 25
    left_out = [{images[n] for n in set(range(1000)) - set(some)} for some in given[1:]]
    assert [len(part) for part in left_out] == [10] * 25
    assert len(set().union(*left_out)) == 250
    by_images = 2.06 * st.standard_error([n % 2 for n in images], images)
    assert high - low == pytest.approx(2 * by_images, rel=0.35)


def test_values_of_two_runs_are_compared_part_by_part() -> None:
    """Leaving out one of four: A − B = 3/4 − 1/4; without each part 2/3 − 1/3 … by hand."""
    first, second = [1.0, 1.0, 1.0, 0.0], [0.0, 1.0, 0.0, 0.0]

    def share_of(scores: Sequence[float]) -> st.Values:
        return lambda some: {
            "share": float(np.mean([scores[number] for number in some])),
            "count": len(some),
            "undefined": math.nan,
        }

    found = st.value_differences(share_of(first), share_of(second), "abcd")
    assert set(found) == {"share", "undefined"}
    # of means the jackknife is the paired t-test
    test = st.paired_t(first, second)
    share = found["share"]
    assert share[:3] == pytest.approx((0.5, test.difference.low, test.difference.high))
    assert share.p == pytest.approx(test.p)
    assert math.isnan(found["undefined"].p)
    same = st.value_differences(share_of(first), share_of(first), "abcd")["share"]
    assert same == (0.0, 0.0, 0.0, 1.0)
    one_image = st.value_differences(share_of(first), share_of(second), "aaaa")["share"]
    assert one_image.difference == 0.5 and math.isnan(one_image.p)
