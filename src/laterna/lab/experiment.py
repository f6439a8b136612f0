"""What all experiments share: arms, values over seeds, differences, findings.

An experiment trains arms that differ in one setting, measures each beside a control, and answers
one question in a sentence. The sentence is made from the numbers, whichever way they point.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

from laterna.evaluation.distributions import t_quantile
from laterna.evaluation.statistics import interval, paired_t
from laterna.recipe import Recipe, StageName
from laterna.records import Record

LEVEL = "not told apart from"
CONFIDENCE = 0.95


class Arm(Record):
    """One way of training, or one thing that is measured without any."""

    name: str
    recipe: Recipe
    stages: tuple[StageName, ...] = ("align", "instruct")
    """What is trained, in this order; none: nothing is."""


class Value(Record):
    """One measured value; one that is a mean of questions' scores keeps them, to be paired."""

    value: float
    scores: tuple[float, ...] = ()


Measures = dict[str, Value]
"""Name of a measure to its value, for one arm and one seed."""


def three_digits(value: float) -> str:
    """Return a number with three digits; what is above zero is never shown as zero."""
    return "< 0.001" if 0 < value < 0.0005 else f"{value:.3f}"


class Spread(NamedTuple):
    """A mean with the ends of its 95 % interval, which are not numbers where nothing tells them."""

    mean: float
    low: float
    high: float

    @property
    def words(self) -> str:
        """The mean and half the interval's width, as tables show them."""
        if math.isnan(self.low):
            return three_digits(self.mean)
        return f"{three_digits(self.mean)} ± {(self.high - self.low) / 2:.3f}"

    @property
    def sign(self) -> int:
        """1 or -1 where the interval of a difference leaves out zero, else 0."""
        return int(self.low > 0) - int(self.high < 0)


class Results(Record):
    """What every arm measured, seed by seed."""

    arms: dict[str, tuple[Measures, ...]]
    """Arm to its measures, one a seed, all in the same order of seeds."""
    seeds: tuple[int, ...]

    def measures(self, arm: str) -> tuple[str, ...]:
        """Return the names of an arm's measures."""
        return tuple(self.arms[arm][0])

    def has(self, arm: str, measure: str) -> bool:
        """Tell whether an arm measured it, with every seed."""
        return all(measure in found for found in self.arms[arm])

    def spread(self, arm: str, measure: str) -> Spread:
        """Return a value's mean over the seeds.

        The interval is over seeds where there are several, else over the questions of the one
        seed, and there is none for one number without questions. What some seed did not measure
        is not a number.
        """
        if not self.has(arm, measure):
            return Spread(math.nan, math.nan, math.nan)
        values = [found[measure] for found in self.arms[arm]]
        if len(values) > 1:
            return _over_seeds([one.value for one in values])
        if values[0].scores:
            found = interval(values[0].scores)
            return Spread(found.mean, found.low, found.high)
        return Spread(values[0].value, math.nan, math.nan)

    def difference(self, first: str, second: str, measure: str, other: str = "") -> Spread:
        """Return what an arm has more than another; `other` names the second's measure.

        Seeds are paired, and questions where there is one seed. Without an interval nobody can say
        that two arms differ.
        """
        pairs = [
            (one[measure], two[other or measure])
            for one, two in zip(self.arms[first], self.arms[second], strict=True)
        ]
        if len(pairs) > 1:
            return _over_seeds([one.value - two.value for one, two in pairs])
        one, two = pairs[0]
        if one.scores and len(one.scores) == len(two.scores):
            found = paired_t(one.scores, two.scores).difference
            return Spread(found.mean, found.low, found.high)
        return Spread(one.value - two.value, math.nan, math.nan)

    def beside(self, first: str, second: str, measure: str, other: str = "") -> str:
        """Say what two arms measured, and how their difference stands: `0.4 against 0.8 (…)`."""
        one, two = self.spread(first, measure), self.spread(second, other or measure)
        told, found = f"{one.mean:.3f} against {two.mean:.3f}", ""
        difference = self.difference(first, second, measure, other)
        if math.isnan(difference.low):
            found = "one number each, so nothing is told"
        else:
            found = f"{difference.mean:+.3f}; {difference.low:+.3f} to {difference.high:+.3f}"
            found += "" if difference.sign else ": not told apart"
        return f"{told} ({found})"


class Answer(NamedTuple):
    """What an experiment found, in words."""

    sentence: str
    """The answer to its question, supported by its own numbers."""
    limits: str
    """What it does not show."""
    foretold: str = ""
    """Whether what was predicted came about, by the numbers; empty: nothing was predicted."""


class Shown(Record):
    """One table of a finding."""

    title: str
    """Empty where it is the only one."""
    columns: tuple[str, ...]
    """`arm`, and then measures."""
    rows: tuple[tuple[str, ...], ...]


class Finding(Record):
    """What an experiment measured, shown: everything that its page needs."""

    title: str
    question: str
    done: str
    """What was done, in a few sentences."""
    answer: str
    limits: str
    foretold: str
    """What was predicted, whether it came about, and what others published."""
    tables: tuple[Shown, ...]
    figure: str
    """An `<svg>` element."""
    arms: tuple[tuple[str, str], ...]
    """Arm and what it differs in from the first."""
    seeds: tuple[int, ...]
    minutes: float
    """On the clock, beside whatever else the machine did."""
    processor_minutes: float
    quick: bool


def change(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """Return a recipe with other settings, named as on the command line (`connector.kind`).

    Raises AttributeError for a setting that there is not.
    """
    changed: Any = recipe
    for place, value in changes.items():
        changed = _changed(changed, place.split("."), value)
    result: Recipe = changed
    return result


def differences(first: Recipe, second: Recipe) -> str:
    """Say in which settings a recipe differs from another one."""
    one, two = dict(_flat(first)), dict(_flat(second))
    told = [f"{name} = {_shown(two[name])}" for name in two if one.get(name) != two[name]]
    return ", ".join(told) or "nothing"


def _shown(value: object) -> str:
    # A setting that was computed, such as 0.8 · 3, shows no digits of its rounding.
    return str(float(f"{value:.6g}") if isinstance(value, float) else value)


def compared(difference: Spread, what: str, *, more: str = "ahead of", less: str = "behind") -> str:
    """Say how two arms stand by the interval of their difference, with the numbers."""
    word = {1: more, -1: less, 0: LEVEL}[difference.sign]
    if math.isnan(difference.low):
        return f"{difference.mean:+.3f} {what} (one number each, so nothing is told) beside"
    ends = f"{difference.low:+.3f} to {difference.high:+.3f}"
    return f"{word} ({difference.mean:+.3f} {what}; {ends})"


def verdict(prediction: str, came: bool) -> str:
    """Say what was predicted, and whether it was found."""
    return f"Predicted: {prediction}. {'It was found.' if came else 'It was not found.'}"


def _over_seeds(values: Sequence[float]) -> Spread:
    """Return the mean over seeds with Student's interval."""
    n = len(values)
    mean = sum(values) / n
    error = math.sqrt(sum((one - mean) ** 2 for one in values) / (n - 1) / n)
    reach = t_quantile((1 + CONFIDENCE) / 2, n - 1) * error
    return Spread(mean, mean - reach, mean + reach)


def _changed(settings: Any, place: Sequence[str], value: Any) -> Any:
    name, *further = place
    inside = getattr(settings, name)
    return replace(settings, **{name: _changed(inside, further, value) if further else value})


def _flat(settings: msgspec.Struct, before: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name in settings.__struct_fields__:
        value = getattr(settings, name)
        if isinstance(value, msgspec.Struct):
            found += _flat(value, f"{before}{name}.")
        else:
            found.append((f"{before}{name}", value))
    return found
