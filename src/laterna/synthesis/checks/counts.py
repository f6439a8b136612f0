"""Holds the numbers that a sentence tells against boxes and captions."""

from __future__ import annotations

from laterna.records import Finding
from laterna.scenes.vocabulary import BROADER
from laterna.synthesis.checks.evidence import Evidence, Number
from laterna.synthesis.checks.numbers import Counted, count_of, several_at
from laterna.synthesis.checks.outcome import Outcome, total
from laterna.synthesis.checks.sentences import Naming, Sentence

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
    counted = count_of(sentence.words, naming.mention)
    several = counted is None and several_at(sentence.words, naming.mention)
    if counted is None and not several:
        return Outcome()
    if counted and counted.at_least and _speaks_of_owner(sentence, naming):
        return Outcome()
    number = _number(naming, sentence, evidence)
    if naming.polarity != "affirmed" or naming.doubtful or number is None:
        return Outcome(unchecked=1)
    if counted is None or counted.at_least:
        word = f"several of {naming.category}" if several else f"more than one {naming.category}"
        return _check_more_than_one(word, sentence, number)
    claimed = counted.value
    decided = decide_count(claimed, number)
    fewer = claimed < number.least and claimed not in number.told
    if decided is False or (fewer and _is_exact(sentence.words, counted, naming)):
        return _wrong(f"{claimed} {naming.category}", number, sentence)
    # Fewer than there are may be told of some of them; more, where captions are vague.
    return Outcome(checked=1) if decided or fewer else Outcome(unchecked=1)


def decide_count(claimed: int, number: Number) -> bool | None:
    """Tell whether so many may be there; None where some of more are meant, or nobody knows."""
    if claimed in number.told or claimed == number.least:
        return True
    return False if number.most is not None and claimed > number.most else None


def _number(naming: Naming, sentence: Sentence, evidence: Evidence) -> Number | None:
    """Return how many there may be of what a word may mean: a "cup" may be a wine glass too."""
    number = evidence.numbers.get(naming.category)
    word = " ".join(sentence.words[naming.first : naming.last])
    others = [name for name in BROADER.get(word, ()) if name != naming.category]
    if number is None or number.most is None:
        return number
    for other in others:
        more = evidence.numbers.get(other)
        if more is not None:
            if more.most is None:
                return number._replace(most=None)
            number = number._replace(most=(number.most or 0) + more.most)
    return number


def _speaks_of_owner(sentence: Sentence, naming: Naming) -> bool:
    return sentence.words[naming.last : naming.last + 1] == ("s",)


def _check_more_than_one(word: str, sentence: Sentence, number: Number) -> Outcome:
    if number.most is None:
        return Outcome(unchecked=1)
    if number.most < 2:
        return _wrong(word, number, sentence)
    return Outcome(checked=1)


def _is_exact(spoken: tuple[str, ...], counted: Counted, naming: Naming) -> bool:
    """Tell whether the number is of all there are, not of "two sitting ones" or "two women"."""
    at = counted.first
    if not naming.whole or not naming.first - at <= 1 + (counted.value > 20):
        return False
    before = spoken[max(0, at - 3) : at]
    after = spoken[naming.last : naming.last + 5]
    if _ONLY.intersection((*before, spoken[at])):
        shown = bool((_PICTURE | _ENDS).intersection(after[:4]) - {"and", ";", ":"})
        return not after or after[0] in _ENDS or shown
    if not _TELLS_ALL.intersection(before) and at > 0:
        return False
    if "other" in before or "another" in before:
        return False
    ended = not after or after[0] in _ENDS
    in_picture = after[:1] in (("in",), ("can",)) and bool(_PICTURE.intersection(after))
    return ended or in_picture


def _wrong(claimed: str, number: Number, sentence: Sentence) -> Outcome:
    told = " or ".join(str(one) for one in sorted(number.told | {number.least}))
    counted = f"at least {told}" if number.most is None else told
    detail = f"{claimed} told, where there are {counted}"
    finding = Finding(reason="wrong count", sentence=sentence.text, detail=detail)
    return Outcome((finding,), checked=1)
