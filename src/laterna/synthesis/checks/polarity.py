"""Tells whether words say that a thing is there, that it is not, or neither for certain.

Uncertain is what is hedged ("might ride a bus"), meant for later or for someone ("waiting for a
bus", "set for four people"), a likeness ("looks like a flock of birds", "a toy car"), generic
("dogs are loyal"), one of two ("a duck or a goose") or quoted. It is no reason to reject a reply.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from laterna.records import Kind
from laterna.scenes.phrases import NUMBERS
from laterna.scenes.vocabulary import DEPICTIONS, Mention, WordSets

_W = WordSets(__package__, "polarity")

Words = tuple[str, ...]
Polarity = Literal["affirmed", "negated", "uncertain"]

_NEGATIVE_PHRASES = (
    ("instead", "of"), ("rather", "than"), ("other", "than"), ("absence", "of"),
    ("devoid", "of"), ("free", "of"), ("free", "from"), ("unlike",), ("except",),
)  # fmt: skip
_REASONING: frozenset[Kind] = frozenset(("reasoning", "refusal"))
_OR_REACH = 3
"""Words between an object and the "or" that makes it one of two."""
_ELSEWHERE = (("in", "summer"), ("in", "winter"), ("at", "home"))
"""With these, a sentence speaks of another time or place."""
_INDEFINITE_TO = _W.determiners | frozenset("left right top bottom side front back".split())
"""After "to", these make of it a direction or a neighbor, no purpose."""
_HABITS = _W.generic_verbs - {"is", "are", "can", "has", "have"}


def first_hedge(spoken: Words, kind: Kind) -> int:
    """Return the index of the first hedging word, or the number of words."""
    mild = _W.mild_hedges if kind in _REASONING else frozenset()
    if "elsewhere" in spoken or any(pair in _ELSEWHERE for pair in pairwise(spoken)):
        return 0
    if _speaks_in_general(spoken):
        return 0
    for at, word in enumerate(spoken):
        if word not in _W.hedges and word not in mild:
            continue
        opens = word in ("can", "could", "will", "may") or word.endswith("ll")
        if opens and _W.seeing.intersection(spoken[at + 1 : at + 4]):
            continue  # "can be seen" says that it is there
        if word.startswith("appear") and spoken[at + 1 : at + 2] in (("on",), ("in",), ("at",)):
            continue  # "appears on the left" says where it is
        last = at + 2 >= len(spoken) and word in _W.afterthoughts  # "it seats five, perhaps"
        return 0 if last else at
    return len(spoken)


def is_verb(spoken: Words, mention: Mention) -> bool:
    """Tell whether the mention is a verb: "to book a flight", "can train"."""
    if mention.plural or mention.last - mention.first > 1 or not mention.first:
        return False
    before = spoken[mention.first - 1]
    if before == "to" and mention.first > 1 and spoken[mention.first - 2] in _W.to_is_place:
        return False
    return before in _W.verb_before


def polarity_of(spoken: Words, mention: Mention, hedge: int, kind: Kind) -> Polarity:
    """Tell how a mention is meant."""
    if is_denied(spoken, mention.first, mention.last):
        return "negated"
    if is_likeness(spoken, mention) or is_supposed(spoken, mention.first):
        return "uncertain"
    if _is_counted_out(spoken, mention):
        return "affirmed"
    if hedge < mention.first or _is_alternative(spoken, mention):
        return "uncertain"
    bare = _is_bare(spoken, mention)
    if hedge < len(spoken) and (bare or _before_modal(spoken, mention, hedge)):
        return "uncertain"
    if hedge < len(spoken) and kind in _REASONING and mention.category == "person":
        return "uncertain"  # whoever laid out the clothes is inferred, not seen
    if mention.plural and spoken[mention.first - 1 : mention.first] in (("where",), ("when",)):
        return "uncertain"
    if bare and mention.plural and not _W.shown.intersection(spoken):
        general = not mention.first and not _W.here.intersection(spoken)
        if kind != "detail" or general:
            return "uncertain"  # "Dogs are social animals": of dogs, not of the image
    return "uncertain" if _is_generic(spoken, mention, bare) else "affirmed"


def is_denied(spoken: Words, first: int, last: int) -> bool:
    """Tell whether a negation covers the words from `first` on: "no dogs, cats or birds"."""
    for at in range(first - 1, -1, -1):
        word = spoken[at]
        if word in _W.ends_denial or (word == "," and spoken[at + 1] in _W.new_clause):
            break
        if word in ("no", "nope") and spoken[at + 1] in _W.after_answer:
            break
        if word in _W.negators or word.endswith("n't"):
            return not _not_only(spoken, at)
        if word in ("nobody", "nothing"):  # "nobody looks at the cat" takes it for granted
            return "the" not in spoken[max(at, first - 2) : first]
        if any(spoken[at : at + len(phrase)] == phrase for phrase in _NEGATIVE_PHRASES):
            return True
    after = spoken[last : last + 5]
    if after[:1] == ("free",):
        return True
    for at, word in enumerate(after):
        if word in (",", ".", ";", "and", "but"):
            return False
        if word in ("not", "cannot") or word.endswith("n't"):
            return bool(_W.absent.intersection(after[at + 1 : at + 3]))
        if word in ("absent", "nowhere"):
            return True
    return False


def is_supposed(spoken: Words, first: int) -> bool:
    """Tell whether the clause before `first` makes of what follows a purpose, wish or likeness."""
    near = True  # nothing but the noun phrase's own words between
    for at in range(first - 1, -1, -1):
        word = spoken[at]
        if word in _W.borders or (word == "," and spoken[at + 1] in _W.new_clause):
            return False
        if word in _W.supposed or (word == "like" and (not at or spoken[at - 1] not in _W.kinds)):
            return True
        if word == "to" and _is_infinitive(spoken, at):
            return True
        if word in _W.openers and _opens_clause(spoken, at):
            return True
        if spoken[at : at + 2] == ("it", "takes"):
            return True  # "it takes a truck to move it"
        if word == "as" and (spoken[at + 1] in _W.compared or spoken[at - 2 : at - 1] == ("as",)):
            return True
        if word in _W.likeness_of and spoken[at + 1] == "of":
            return True
        if word in _W.holds and (spoken[at + 1] == "up" or _is_number(spoken[at + 1])):
            return True
        if word == "for" and spoken[at - 1 : at] and spoken[at - 1] in _W.places_for:
            return True
        if near and word == "about" and not _is_number(spoken[at + 1]):
            return True  # "warns about horses", but "about three horses" is how many
        if near and word == "from" and spoken[at - 1 : at] == ("away",):
            return True
        if near and at and word == "for" and spoken[at + 1] not in _W.definite:
            return True  # "set for four people", but not "the reason for these people"
        near = near and word not in _W.prepositions
    return False


def _opens_clause(spoken: Words, at: int) -> bool:
    """ "Before the bus arrives, …", but not "the man stands before the bus"."""
    return spoken[max(0, at - 1) : at] in ((), (",",)) and spoken[at + 1] in _W.determiners


def _is_number(word: str) -> bool:
    return word in NUMBERS or word.isdigit()


def is_likeness(spoken: Words, mention: Mention) -> bool:
    """Tell whether a thing is a toy, a statue, an image or in the shape of what is named."""
    before = spoken[max(0, mention.first - 3) : mention.first]
    after = spoken[mention.last : mention.last + 1]
    if after and (after[0] in DEPICTIONS or after[0] in _W.pictured or after[0] == "once"):
        return True  # "a bench once stood here" is none either
    if "mind" in spoken[mention.last : mention.last + 2]:
        return True  # "built with a cat in mind"
    near = before[-1:] if not before or before[-1] not in ("a", "an", "the", "of") else before
    likeness_of = "of" in before and bool(DEPICTIONS.intersection(before[:2]))
    return bool(DEPICTIONS.intersection(near[-1:])) or likeness_of


def _is_infinitive(spoken: Words, at: int) -> bool:
    after, before = spoken[at + 1], spoken[at - 1] if at else ""
    if before.startswith(("appear", "seem", "happen")):
        return False
    if (
        before in _W.to_is_place
        or after in _INDEFINITE_TO
        or (after.endswith("ing") and len(after) > 5)
    ):
        return False
    return after.isalpha() and not (after == "be" and before == "seen")


def _not_only(spoken: Words, at: int) -> bool:
    if spoken[at] == "no" and spoken[at + 1 : at + 2] in (("doubt",), ("longer",), ("matter",)):
        return True
    return spoken[at + 1 : at + 2] in (("only",), ("just",), ("far",), ("merely",), ("simply",))


def _is_counted_out(spoken: Words, mention: Mention) -> bool:
    """ "The four suitcases could be valuable" takes for granted that there are four."""
    before = spoken[max(0, mention.first - 4) : mention.first]
    return any(
        article in ("the", "these", "those") and (number in NUMBERS or number.isdigit())
        for article, number in pairwise(before)
    )


def _is_alternative(spoken: Words, mention: Mention) -> bool:
    """ "a duck or a goose": surely neither."""
    around = (
        *spoken[max(0, mention.first - _OR_REACH) : mention.first],
        *spoken[mention.last : mention.last + _OR_REACH - 1],
    )
    return "or" in around or "any" in spoken[max(0, mention.first - 2) : mention.first]


def _is_bare(spoken: Words, mention: Mention) -> bool:
    before = spoken[max(0, mention.first - 4) : mention.first]
    return not any(word in _W.determiners or word in NUMBERS or word.isdigit() for word in before)


def _before_modal(spoken: Words, mention: Mention, hedge: int) -> bool:
    """ "a car could come along", "four people will eat": none that are there."""
    before = spoken[max(0, mention.first - 2) : mention.first]
    indefinite = {"a", "an", "some", "any", *NUMBERS}.intersection(before)
    return hedge - mention.last <= 1 and bool(indefinite) and not _W.definite.intersection(before)


def _speaks_in_general(spoken: Words) -> bool:
    """ "Owning a cat is easy": begins with a doing, not with "Sitting on the bench is"."""
    begins = spoken[:1] and spoken[0].endswith("ing") and len(spoken[0]) > 5
    if not begins or spoken[1:2] == () or spoken[1] in _W.positional | {"in", "front"}:
        return False
    verb = min(
        (at for at, word in enumerate(spoken) if word in ("is", "are", "can", ",")), default=0
    )
    return bool(verb) and spoken[verb] != "," and spoken[verb + 1 : verb + 2] != ("the",)


def _is_generic(spoken: Words, mention: Mention, bare: bool) -> bool:
    """ "Giraffes are tall animals", "A fire hydrant is used by firefighters"."""
    listed = mention.first <= 3 and spoken[mention.first - 1] in ("and", ",")
    before = spoken[max(0, mention.first - 2) : mention.first]
    article = before[-1:] in (("a",), ("an",)) and not mention.plural
    article = article and before[0] in ("a", "an", "while", "whereas", ",")
    if not (article or (bare and mention.plural and (mention.first <= 1 or listed))):
        return False
    at = mention.last
    while spoken[at : at + 1] in (("and",), (",",)):  # "cats and dogs are popular"
        at += 2
    verb, then = (*spoken[at : at + 2], "", "")[:2]
    if verb not in _W.generic_verbs or _W.shown.intersection(spoken) - {"have", "has"}:
        return False
    if verb in _HABITS or then in _W.generic_words or verb == "can":
        return True
    shown = then in _W.positional or then.endswith(("ing", "ed"))
    return verb in ("are", "have") and mention.plural and not shown
