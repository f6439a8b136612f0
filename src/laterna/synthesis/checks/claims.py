"""Holds the objects, numbers and colours that a sentence tells against boxes and captions.

A colour is only held against captions for a thing that there is one of, and only one that no
caption's colour could be taken for: a brown dog may be called golden, and a white one grey.
People are left out, whose colours are those of their clothes.
"""

from __future__ import annotations

from laterna.records import Finding
from laterna.scenes.facts import colours_before
from laterna.scenes.phrases import with_article
from laterna.scenes.vocabulary import BROADER, COLOURS, WordSets, plural
from laterna.synthesis.checks.evidence import Evidence, Number
from laterna.synthesis.checks.sentences import Counted, Naming, Sentence, count_of, several_at
from laterna.synthesis.checks.verdicts import Outcome, total

_W = WordSets(__package__, "claims")

_BEING = _W.image | frozenset(
    """there is are a an the one and also , . ! shows features includes contains depicts displays
    has i we you can could see be seen visible present in this here as well some it yes""".split()
)
"""Words that say no more than that what is named is there."""


def check_objects(sentence: Sentence, evidence: Evidence) -> Outcome:
    """Find claimed objects that are not there, and denied ones that are."""
    return total(_check_object(naming, sentence, evidence) for naming in sentence.namings)


def _check_object(naming: Naming, sentence: Sentence, evidence: Evidence) -> Outcome:
    category = naming.category
    held = category in evidence.held
    if naming.polarity == "uncertain":
        return Outcome()
    if naming.polarity == "negated":
        if not held:
            unsure = category in evidence.possible
            return Outcome(unchecked=1) if unsure else Outcome(checked=1)
        if naming.whole and not naming.doubtful and denies_all(sentence, naming):
            detail = f"there {_is_or_are(category)} in the picture"
            return Outcome((_finding("denied object", sentence, detail),), checked=1)
        return Outcome(unchecked=1)
    if held or _could_mean_another(naming, sentence, evidence):
        # That a thing is there is decided; what else the sentence says of it is not.
        return Outcome(checked=int(_says_no_more(sentence)))
    if naming.doubtful or category in evidence.possible:
        return Outcome(unchecked=1)
    phrase = " ".join(sentence.words[naming.first : naming.last])
    detail = f"{phrase!r}: no {category} is known to be in the picture"
    return Outcome((_finding("absent object", sentence, detail),), checked=1)


def _says_no_more(sentence: Sentence) -> bool:
    """Tell whether a sentence only says that things are there."""
    named = {at for naming in sentence.namings for at in range(naming.first, naming.last)}
    return all(word in _BEING for at, word in enumerate(sentence.words) if at not in named)


def denies_all(sentence: Sentence, naming: Naming) -> bool:
    """Tell whether the sentence says no more than that there is no such thing at all.

    "There is no dog on the couch" is about the couch: it may be true of an image with a dog.
    """
    spoken = sentence.words
    before, after = spoken[: naming.first], spoken[naming.last :]
    if before[:2] in (("no", ","), ("yes", ",")):
        before = before[2:]
    opened = before[:1] in (("there",), ("no",), ())
    if not opened or any(word in ("other", "more", "longer", "real") for word in before):
        return False
    adjectives = before[before.index("no") + 1 :] if "no" in before[2:] else before[-1:]
    if not set(adjectives) <= {"no", "not", "a", "an", "any", "isn't", "aren't"}:
        return False
    if not after or after[0] in _W.bare_denial_end:
        return True
    return after[0] in ("in", "at") and bool(_W.image.intersection(after[1:4]))


def _could_mean_another(naming: Naming, sentence: Sentence, evidence: Evidence) -> bool:
    """ "Bike" of a motorcycle, "glass" of a cup."""
    meanings = BROADER.get(" ".join(sentence.words[naming.first : naming.last]), ())
    return any(meaning in evidence.held for meaning in meanings)


def _is_or_are(category: str) -> str:
    name = with_article(category)
    return f"are {plural(category)}" if name.startswith("some ") else f"is {name}"


def _finding(reason: str, sentence: Sentence, detail: str) -> Finding:
    return Finding(reason=reason, sentence=sentence.text, detail=detail)


def check_counts(sentence: Sentence, evidence: Evidence) -> Outcome:
    """Find numbers of things that boxes and captions rule out."""
    return total(_check_count(naming, sentence, evidence) for naming in sentence.namings)


def _check_count(naming: Naming, sentence: Sentence, evidence: Evidence) -> Outcome:
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
    if _W.only.intersection((*before, spoken[at])):
        shown = bool((_W.image | _W.count_ends).intersection(after[:4]) - {"and", ";", ":"})
        return not after or after[0] in _W.count_ends or shown
    if not _W.tells_all.intersection(before) and at > 0:
        return False
    if "other" in before or "another" in before:
        return False
    ended = not after or after[0] in _W.count_ends
    in_image = after[:1] in (("in",), ("can",)) and bool(_W.image.intersection(after))
    return ended or in_image


def _wrong(claimed: str, number: Number, sentence: Sentence) -> Outcome:
    told = " or ".join(str(one) for one in sorted(number.told | {number.least}))
    counted = f"at least {told}" if number.most is None else told
    detail = f"{claimed} told, where there are {counted}"
    finding = Finding(reason="wrong count", sentence=sentence.text, detail=detail)
    return Outcome((finding,), checked=1)


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


def check_colours(sentence: Sentence, evidence: Evidence) -> Outcome:
    """Find colours of single things that captions rule out."""
    return total(_check_colour(naming, sentence, evidence) for naming in sentence.namings)


def _check_colour(naming: Naming, sentence: Sentence, evidence: Evidence) -> Outcome:
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
    if spoken[at : at + 1] == () or spoken[at] not in _W.copulas:
        return frozenset()
    at += 1
    while at < len(spoken) and spoken[at] in _W.shades:
        at += 1
    found: set[str] = set()
    while at < len(spoken) and (spoken[at] in COLOURS or (found and spoken[at] in ("and", ","))):
        if spoken[at] in COLOURS:
            found.add(spoken[at])
        at += 1
    ended = at >= len(spoken) or spoken[at] in _W.colour_ends or spoken[at - 1] in ("and", ",")
    return frozenset(found) if ended else frozenset()


def _may_be(colour: str, other: str) -> bool:
    one, two = colour.replace("gray", "grey"), other.replace("gray", "grey")
    return one == two or two in _NEAR.get(one, "").split() or one in _NEAR.get(two, "").split()
