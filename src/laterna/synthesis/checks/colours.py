"""Holds the colours that a sentence gives to things against those that captions give them.

Only of a thing that there is one of, and only a colour that no caption's colour could be taken
for: a brown dog may be called golden, and a white one grey. People are left out, whose colours
are those of their clothes.
"""

from __future__ import annotations

from laterna.records import Finding
from laterna.scenes.facts import colours_before
from laterna.scenes.vocabulary import COLOURS
from laterna.synthesis.checks.evidence import Evidence
from laterna.synthesis.checks.outcome import Outcome, total
from laterna.synthesis.checks.sentences import Naming, Sentence

_NEAR = {
    "red": "orange pink",
    "orange": "yellow gold brown",
    "yellow": "gold",
    "gold": "brown",
    "green": "blue",
    "blue": "purple",
    "purple": "pink",
    "brown": "red",
    "black": "grey",
    "white": "grey silver",
    "grey": "silver",
}
"""Colours that one viewer's word may mean in another's: they contradict nothing."""
_IS = frozenset("is looks appears".split())
_HOW = frozenset("mostly mainly bright dark light deep pale painted entirely all very".split())
_ENDS = frozenset(". , ; ! and with in on while but".split())


def check_colours(sentence: Sentence, evidence: Evidence) -> Outcome:
    """Find colours of single things that captions rule out."""
    return total(_check(naming, sentence, evidence) for naming in sentence.namings)


def _check(naming: Naming, sentence: Sentence, evidence: Evidence) -> Outcome:
    said = colours_before(sentence.words, naming.first) | _colours_behind(sentence.words, naming)
    if not said:
        return Outcome()
    told = evidence.colours.get(naming.category)
    decided = naming.polarity == "affirmed" and not naming.doubtful and naming.category != "person"
    if not told or not decided or naming.plural:
        return Outcome(unchecked=1)
    if not contradict(said, told):
        return Outcome(checked=1)
    detail = f"the {naming.category} is {' and '.join(sorted(told))}, not {sorted(said)[0]}"
    finding = Finding(reason="wrong colour", sentence=sentence.text, detail=detail)
    return Outcome((finding,), checked=1)


def contradict(said: frozenset[str], told: frozenset[str]) -> bool:
    """Tell whether no colour that is said could be taken for one that is told."""
    return not any(_may_be(colour, other) for colour in said for other in told)


def _colours_behind(spoken: tuple[str, ...], naming: Naming) -> frozenset[str]:
    """Return the colours of "the dog is dark brown and white", said of nothing that follows."""
    at = naming.last
    if spoken[at : at + 1] == () or spoken[at] not in _IS:
        return frozenset()
    at += 1
    while at < len(spoken) and spoken[at] in _HOW:
        at += 1
    found: set[str] = set()
    while at < len(spoken) and (spoken[at] in COLOURS or (found and spoken[at] in ("and", ","))):
        if spoken[at] in COLOURS:
            found.add(spoken[at])
        at += 1
    ended = at >= len(spoken) or spoken[at] in _ENDS or spoken[at - 1] in ("and", ",")
    return frozenset(found) if ended else frozenset()


def _may_be(colour: str, other: str) -> bool:
    one, two = colour.replace("gray", "grey"), other.replace("gray", "grey")
    return one == two or two in _NEAR.get(one, "").split() or one in _NEAR.get(two, "").split()
