"""How sure a score is, and whether two models differ: intervals, paired tests, sample sizes.

Questions about one image are not independent: where they share one, its name is their cluster, and
every figure here takes whole clusters together (Miller 2024, arXiv 2411.00640). Answers without a
score (not a number) are the caller's to leave out, and to count.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from laterna.errors import LaternaError
from laterna.evaluation.distributions import sign_test, t_quantile, t_tail

Floats = npt.NDArray[np.float64]
Values = Callable[[Sequence[int]], dict[str, float]]
"""Gives named values over some questions, named by their numbers."""
CONFIDENCE = 0.95
RESAMPLES = 10_000
"""Bootstrap samples: the ends of a 95 % interval then vary by about 2 % of its width."""
FEWEST_RESAMPLES = 1_000
_DRAWS = 100_000_000
"""Draws for one interval: beyond 10,000 scores that all differ there are fewer resamples."""
_CHUNK = 1 << 20
"""Draws held at once."""
_DIGITS = 12
"""Decimals to which sums of scores are the same: 0.3 + 0.3 + 0.3 is 0.9."""


class Interval(NamedTuple):
    """A mean with the ends of its confidence interval; not a number where there is none."""

    mean: float
    low: float
    high: float
    method: str
    """`wilson`, `bootstrap` or `t`, with `by image` where clusters were taken together."""


class PairedT(NamedTuple):
    """Paired t-test of two runs over the same questions."""

    difference: Interval
    """First minus second."""
    standard_error: float
    t: float
    p: float
    """Two-sided."""


class McNemar(NamedTuple):
    """Exact McNemar test of two runs whose scores are 0 and 1."""

    only_first: int
    """Questions that the first run alone has right."""
    only_second: int
    p: float
    """Two-sided."""


class ValueDifference(NamedTuple):
    """How far a value of one run is from another's over the same questions, first minus second."""

    difference: float
    low: float
    high: float
    p: float
    """Two-sided. It and the ends are not numbers where the value is undefined."""


class Comparison(NamedTuple):
    """Two runs over the same questions, first minus second."""

    bootstrap: Interval
    paired_t: PairedT
    mcnemar: McNemar | None
    """None where scores are not all 0 or 1."""
    needed: int | None
    """Questions that would tell a difference of this size in four of five runs; None at 0."""


def standard_error(scores: Sequence[float], clusters: Sequence[Hashable] | None = None) -> float:
    """Return the standard error of the mean, clustered where clusters are given.

    Not a number for fewer than two scores. Equation 4 of arXiv 2411.00640, as in lmms-eval 0.7.2.
    """
    values = np.asarray(scores, dtype=np.float64)
    n = len(values)
    if n < 2:
        return math.nan
    deviations = values - values.mean()
    squares = float(deviations @ deviations)
    variance = squares / (n - 1) / n
    if clusters is not None:
        sums = _cluster_sums(deviations, clusters)
        variance += (float(sums @ sums) - squares) / n**2
    return math.sqrt(max(variance, 0.0))


def wilson(share: float, n: float, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the ends of Wilson's interval of a share of `n` questions (n may be an effective one).

    Not numbers where n is 0.
    """
    if n <= 0:
        return math.nan, math.nan
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    reach = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, middle - reach), min(1.0, middle + reach)


def interval(
    scores: Sequence[float],
    clusters: Sequence[Hashable] | None = None,
    *,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Interval:
    """Return the mean of scores with its interval: Wilson's where all are 0 or 1, else bootstrap.

    Clusters that are all of one question change nothing. Wilson's interval of clustered scores is
    that of as many independent questions as have their standard error (times the usual correction
    for few clusters, c / (c - 1)), at most all of them; where that tells nothing (one cluster, all
    scores equal), of as many as there are clusters. The bootstrap of one cluster has no ends.
    """
    if not len(scores):
        return Interval(math.nan, math.nan, math.nan, "none")
    shared = clusters is not None and len(set(clusters)) < len(scores)
    own = clusters if shared else None
    by = " by image" if shared else ""
    mean = float(np.mean(scores))
    if set(scores) <= {0.0, 1.0}:
        n = float(len(scores))
        if own is not None:
            count = len(set(own))
            variance = standard_error(scores, own) ** 2 * count / max(count - 1, 1)
            unlike = count > 1 and variance > 0 and 0 < mean < 1
            n = min(n, mean * (1 - mean) / variance) if unlike else count
        return Interval(mean, *wilson(mean, n, confidence), f"wilson{by}")
    low, high = _bootstrap_ends(scores, own, confidence, seed)
    return Interval(mean, low, high, f"bootstrap{by}")


def value_intervals(
    values: Values,
    clusters: Sequence[Hashable],
    *,
    groups: int = 30,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Return the ends of the intervals of any named values over questions, such as F1 or CHAIRi.

    `values` is given the numbers of some questions. Clusters are drawn into at most `groups` parts,
    and each part is left out once (the delete-a-group jackknife: no question ever comes twice, so
    pairs stay pairs); Student's t then gives the ends. A count (`int`) has no interval, nor has
    what is not a number over all or without some part.
    """
    errors, parts = _jackknife(values, clusters, groups, seed)
    if not errors:
        return {}
    reach = t_quantile((1 + confidence) / 2, parts - 1)
    found: dict[str, tuple[float, float]] = {}
    for name, (value, error) in errors.items():
        found[name] = (value - reach * error, value + reach * error)
    return found


def value_differences(
    first: Values, second: Values, clusters: Sequence[Hashable], *, groups: int = 30, seed: int = 0
) -> dict[str, ValueDifference]:
    """Compare any named values of two runs over the same questions, in the same order.

    It is the jackknife of `value_intervals`, of the differences: each part is left out of both
    runs at once, so what makes a question hard for both cancels. Counts are left out.
    """

    def apart(numbers: Sequence[int]) -> dict[str, float]:
        ours, theirs = first(numbers), second(numbers)
        return {
            name: float(ours[name] - theirs[name])
            for name in ours
            if name in theirs and not isinstance(ours[name], int)
        }

    errors, parts = _jackknife(apart, clusters, groups, seed)
    found: dict[str, ValueDifference] = {}
    for name, value in apart(range(len(clusters))).items():
        if name not in errors:
            found[name] = ValueDifference(value, math.nan, math.nan, math.nan)
            continue
        test = _t_test(value, errors[name][1], parts - 1)
        low, high = test.difference.low, test.difference.high
        found[name] = ValueDifference(value, low, high, test.p)
    return found


def _jackknife(
    values: Values, clusters: Sequence[Hashable], groups: int, seed: int
) -> tuple[dict[str, tuple[float, float]], int]:
    """Return each value with its standard error, where it has one, and the number of parts."""
    numbers = {cluster: number for number, cluster in enumerate(dict.fromkeys(clusters))}
    parts = min(groups, len(numbers))
    if parts < 2:
        return {}, parts
    part_of = np.random.default_rng(seed).permutation(len(numbers)) % parts
    places = [part_of[numbers[cluster]] for cluster in clusters]
    whole = values(range(len(clusters)))
    without = [
        values([number for number, place in enumerate(places) if place != part])
        for part in range(parts)
    ]
    found: dict[str, tuple[float, float]] = {}
    for name, value in whole.items():
        squares = sum((one.get(name, math.nan) - value) ** 2 for one in without)
        if not isinstance(value, int) and not math.isnan(squares):
            found[name] = value, math.sqrt(squares * (parts - 1) / parts)
    return found, parts


def paired_t(
    first: Sequence[float], second: Sequence[float], *, confidence: float = CONFIDENCE
) -> PairedT:
    """Test whether two runs' mean scores differ, question by question.

    Not numbers for fewer than two questions. Raises LaternaError when the runs are not as long.
    """
    differences = _differences(first, second)
    n = len(differences)
    if n < 2:
        nothing = Interval(math.nan, math.nan, math.nan, "t")
        return PairedT(nothing, math.nan, math.nan, math.nan)
    return _t_test(float(differences.mean()), standard_error([*differences]), n - 1, confidence)


def _t_test(mean: float, error: float, freedom: int, confidence: float = CONFIDENCE) -> PairedT:
    reach = t_quantile((1 + confidence) / 2, freedom) * error
    if error == 0:
        t = math.copysign(math.inf, mean) if mean else 0.0
        p = 0.0 if mean else 1.0
    else:
        t = mean / error
        p = 2 * t_tail(abs(t), freedom)
    return PairedT(Interval(mean, mean - reach, mean + reach, "t"), error, t, p)


def mcnemar(first: Sequence[float], second: Sequence[float]) -> McNemar:
    """Test exactly whether one of two runs has more questions right, by those they differ on.

    Raises LaternaError when a score is neither 0 nor 1, or the runs are not as long.
    """
    differences = _differences(first, second)
    if not {*first, *second} <= {0.0, 1.0}:
        raise LaternaError("McNemar's test needs scores that are 0 or 1")
    ahead, behind = int((differences > 0).sum()), int((differences < 0).sum())
    return McNemar(ahead, behind, sign_test(min(ahead, behind), ahead + behind))


def compare(
    first: Sequence[float],
    second: Sequence[float],
    clusters: Sequence[Hashable] | None = None,
    *,
    seed: int = 0,
) -> Comparison:
    """Compare two runs' scores of the same questions, in the same order, by every test there is.

    Raises LaternaError when there are none, or the runs are not as long.
    """
    differences = [*_differences(first, second)]
    if not differences:
        raise LaternaError("two runs without a common question cannot be compared")
    shared = clusters is not None and len(set(clusters)) < len(differences)
    ends = _bootstrap_ends(differences, clusters if shared else None, CONFIDENCE, seed)
    mean = float(np.mean(differences))
    binary = {*first, *second} <= {0.0, 1.0}
    spread = float(np.std(differences, ddof=1)) if len(differences) > 1 else 0.0
    needed = questions_needed(mean, spread) if mean and spread else None
    return Comparison(
        bootstrap=Interval(mean, *ends, "bootstrap by image" if shared else "bootstrap"),
        paired_t=paired_t(first, second),
        mcnemar=mcnemar(first, second) if binary else None,
        needed=needed,
    )


def questions_needed(
    difference: float, spread: float, *, alpha: float = 0.05, power: float = 0.8
) -> int:
    """Return how many questions tell two models apart that differ by `difference`.

    `spread` is the standard deviation of the difference over the questions. A two-sided paired test
    at `alpha` then finds the difference with the given `power`. Raises LaternaError for a
    difference of 0.
    """
    if not difference:
        raise LaternaError("no number of questions tells apart two models that do not differ")
    normal = NormalDist()
    deviations = normal.inv_cdf(1 - alpha / 2) + normal.inv_cdf(power)
    return max(1, math.ceil((deviations * spread / difference) ** 2))


def _differences(first: Sequence[float], second: Sequence[float]) -> Floats:
    if len(first) != len(second):
        raise LaternaError(
            f"two runs can be compared over the same questions only; these have {len(first)} and "
            f"{len(second)} scores"
        )
    return np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)


def _cluster_sums(values: Floats, clusters: Sequence[Hashable]) -> Floats:
    if len(clusters) != len(values):
        raise LaternaError(f"{len(values)} scores have {len(clusters)} clusters")
    numbers: dict[Hashable, int] = {}
    places = [numbers.setdefault(cluster, len(numbers)) for cluster in clusters]
    return np.bincount(places, weights=values).astype(np.float64)


def _bootstrap_ends(
    scores: Sequence[float], clusters: Sequence[Hashable] | None, confidence: float, seed: int
) -> tuple[float, float]:
    """Return the percentile ends of the mean over resampled clusters (each question its own).

    How often each of n clusters is drawn matters only by what it adds to the mean: those that add
    the same are drawn together, by one multinomial draw a resample. Scores take few values (VQA's
    eleven), so the time hardly hangs on n.
    """
    values = np.asarray(scores, dtype=np.float64)
    own: Sequence[Hashable] = range(len(values)) if clusters is None else clusters
    adds = np.stack([_cluster_sums(values, own), _cluster_sums(np.ones_like(values), own)])
    n = adds.shape[1]
    if n < 2:
        return math.nan, math.nan
    kinds, counts = np.unique(adds.round(_DIGITS), axis=1, return_counts=True)
    rng = np.random.default_rng(seed)
    resamples = max(FEWEST_RESAMPLES, min(RESAMPLES, _DRAWS // len(counts)))
    rows = max(1, _CHUNK // len(counts))
    means = []
    for done in range(0, resamples, rows):
        drawn = rng.multinomial(n, counts / n, size=min(rows, resamples - done))
        sums, sizes = kinds @ drawn.T
        means.append(sums / sizes)
    return _ends(np.concatenate(means), confidence)


def _ends(found: Floats, confidence: float) -> tuple[float, float]:
    low, high = np.quantile(found, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
