"""Holds the numbers that a sentence tells against boxes and captions."""

from __future__ import annotations

from laterna.records import Finding
from laterna.synthesis.checks.evidence import Evidence, Number
from laterna.synthesis.checks.numbers import (
    MORE_THAN_ONE,
    number_at,
    read_number,
)
from laterna.synthesis.checks.outcome import Outcome, total
from laterna.synthesis.checks.reading import Naming, Sentence

_ONLY = frozenset("only just exactly single lone sole solitary total".split())
_PICTURE = frozenset("picture image photo photograph scene".split())
_TELLS_ALL = frozenset(
    """are is were was there has shows features includes contains depicts displays showcases total
    has see sees captures""".split()
)
_ENDS = frozenset(". ! ; : visible present pictured depicted shown altogether total and".split())


def check_counts(sentence: Sentence, evidence: Evidence) -> Outcome:
    """Find numbers of things that boxes and captions rule out."""
    return total(_check(naming, sentence, evidence) for naming in sentence.namings)


def _check(naming: Naming, sentence: Sentence, evidence: Evidence) -> Outcome:
    at = number_at(sentence.words, naming.first)
    several = _several_at(sentence.words, naming)
    if at is None and several is None:
        return Outcome()
    number = evidence.numbers.get(naming.category)
    if naming.attitude != "claimed" or naming.doubtful or number is None:
        return Outcome(unchecked=1)
    if at is None:
        return _check_several(naming, sentence, number)
    claimed = read_number(sentence.words[at])
    assert claimed is not None  # number_at found it
    exact = _is_exact(sentence.words, at, naming)
    if claimed in number.told or claimed == number.least:
        return Outcome(checked=1)
    if number.most is not None and claimed > number.most:
        return _wrong(f"{claimed} {naming.category}", _counted(number), sentence)
    if exact and claimed < number.least:
        return _wrong(f"{claimed} {naming.category}", _counted(number), sentence)
    # Fewer than there are may be told of some of them; more, where captions are vague.
    return Outcome(unchecked=1) if claimed > number.least else Outcome(checked=1)


def _several_at(spoken: tuple[str, ...], naming: Naming) -> int | None:
    if not naming.plural:
        return None
    for at in range(naming.first - 1, max(-1, naming.first - 4), -1):
        if spoken[at] in MORE_THAN_ONE:
            return at
    return None


def _check_several(naming: Naming, sentence: Sentence, number: Number) -> Outcome:
    if number.most is None:
        return Outcome(unchecked=1)
    if number.most < 2:
        return _wrong(f"several of {naming.category}", _counted(number), sentence)
    return Outcome(checked=1)


def _is_exact(spoken: tuple[str, ...], at: int, naming: Naming) -> bool:
    """Tell whether the number is of all there are, not of "two sitting ones" or "two women"."""
    if not naming.whole or naming.first - at > 1:
        return False
    before = spoken[max(0, at - 3) : at]
    after = spoken[naming.last : naming.last + 5]
    if _ONLY.intersection(before):
        shown = bool((_PICTURE | _ENDS).intersection(after[:4]) - {"and", ";", ":"})
        return not after or after[0] in _ENDS or shown
    if not _TELLS_ALL.intersection(before) and at > 0:
        return False
    if "other" in before or "another" in before:
        return False
    ended = not after or after[0] in _ENDS
    in_picture = after[:1] in (("in",), ("can",)) and bool(_PICTURE.intersection(after))
    return ended or in_picture


def _counted(number: Number) -> str:
    told = sorted(number.told | {number.least})
    counted = " or ".join(str(one) for one in told)
    return f"at least {counted}" if number.most is None else counted


def _wrong(claimed: str, counted: str, sentence: Sentence) -> Outcome:
    detail = f"{claimed} told, where there are {counted}"
    finding = Finding(reason="wrong count", sentence=sentence.text, detail=detail)
    return Outcome((finding,), checked=1)
