"""Tells whether words claim an object, deny it, or leave it open.

Open is what is hedged ("might ride a bus"), generic ("dogs are loyal"), one of two ("a duck or
a goose") or a likeness ("a toy car"): no reason to reject a reply, and counted as unchecked.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from laterna.records import Kind
from laterna.scenes.phrases import NUMBERS
from laterna.scenes.vocabulary import DEPICTIONS, Mention
from laterna.synthesis.checks.viewing import asks_to_look, is_sure

Words = tuple[str, ...]

_NEGATORS = frozenset("no not without never none neither nor cannot lacks lacking lack".split())
_NEGATIVE_PHRASES = (
    ("instead", "of"), ("rather", "than"), ("other", "than"), ("absence", "of"),
    ("devoid", "of"), ("free", "of"), ("free", "from"), ("unlike",), ("except",),
)  # fmt: skip
_ENDS_DENIAL = frozenset(". ; : ! ? but however although though while only just".split())
_NEW_CLAUSE = frozenset(
    "there it they he she we you i the this that these those which making giving so and".split()
)
_HEDGES = frozenset(
    """might may could would should possibly perhaps probably likely potentially potential maybe if
    whether suggest suggests suggesting suggested imply implies implying hypothetically unless
    assume assuming presumably plausible possible conceivably ideally future imagine""".split()
)
_MILD_HEDGES = frozenset(
    """appears appear appearing seems seem seemingly apparently can when often usually typically
    generally commonly sometimes must need needs indicates indicate indicating example instance
    like such necessary essential important""".split()
)
"""Enough in an answer that reasons; a description that says so still claims."""
_SEEING = frozenset(
    "see seen notice noticed observe observed spot spotted count counted find found".split()
)
_REASONING: frozenset[Kind] = frozenset(("reasoning", "refusal"))
_DETERMINERS = frozenset(
    """a an the this that these those his her its their my your our another each every several
    many few some multiple numerous various both two three four five six seven eight nine ten
    other any all no one more""".split()
)
_SHOWN = frozenset(
    """shows show shown features feature featuring includes include including contains contain
    depicts depict seen see visible there displays display showcases showcase captures
    has have with holds holding scene background foreground picture image photo""".split()
)
_ABSENT = frozenset("visible present shown seen pictured depicted there any in".split())
_VERB_BEFORE = frozenset("to can could may might will would must should cannot please let".split())
_TO_IS_PLACE = frozenset(
    "next close closer adjacent similar attached connected due nearer opposite compared".split()
)
_OR_REACH = 3
"""Words between an object and the "or" that makes it one of two."""


def first_hedge(spoken: Words, kind: Kind) -> int:
    """Return the index of the first hedging word, or the number of words."""
    mild = _MILD_HEDGES if kind in _REASONING else frozenset()
    for at, word in enumerate(spoken):
        if word in ("can", "could") and _SEEING.intersection(spoken[at + 1 : at + 4]):
            continue  # "can be seen" says that it is there
        if is_sure(spoken, at, _SEEING) or asks_to_look(spoken, at):
            continue
        if word.startswith("appear") and spoken[at + 1 : at + 2] in (("on",), ("in",), ("at",)):
            continue  # "appears on the left" says where it is
        if word in _HEDGES or word in mild:
            return at
    return len(spoken)


def is_verb(spoken: Words, mention: Mention) -> bool:
    """Tell whether the mention is a verb: "to book a flight", "can train"."""
    if mention.plural or mention.last - mention.first > 1 or not mention.first:
        return False
    before = spoken[mention.first - 1]
    if before == "to" and mention.first > 1 and spoken[mention.first - 2] in _TO_IS_PLACE:
        return False
    return before in _VERB_BEFORE


def of_mention(
    spoken: Words, mention: Mention, hedge: int, kind: Kind
) -> Literal["claimed", "denied", "open"]:
    """Tell how a mention is meant."""
    if is_denied(spoken, mention.first, mention.last):
        return "denied"
    if _is_counted_out(spoken, mention):
        return "claimed"
    if hedge < mention.first or _alternative(spoken, mention) or _likeness(spoken, mention):
        return "open"
    bare = _is_bare(spoken, mention)
    if hedge < len(spoken) and (bare or _before_modal(spoken, mention, hedge)):
        return "open"
    if hedge < len(spoken) and kind in _REASONING and mention.category == "person":
        return "open"  # whoever laid out the clothes is inferred, not seen
    if bare and mention.plural and kind != "detail" and not _SHOWN.intersection(spoken):
        return "open"  # "Dogs are social animals": of dogs, not of the picture
    return "claimed"


def is_denied(spoken: Words, first: int, last: int) -> bool:
    """Tell whether a negation covers the words from `first` on: "no dogs, cats or birds"."""
    for at in range(first - 1, -1, -1):
        word = spoken[at]
        if word in _ENDS_DENIAL or (word == "," and spoken[at + 1] in _NEW_CLAUSE):
            break
        if word in _NEGATORS or word.endswith("n't"):
            return not _not_only(spoken, at)
        if any(spoken[at : at + len(phrase)] == phrase for phrase in _NEGATIVE_PHRASES):
            return True
    after = spoken[last : last + 5]
    if after[:1] == ("free",):
        return True
    for at, word in enumerate(after):
        if word in (",", ".", ";", "and", "but"):
            return False
        if word in ("not", "cannot") or word.endswith("n't"):
            return bool(_ABSENT.intersection(after[at + 1 : at + 3]))
        if word in ("absent", "nowhere"):
            return True
    return False


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


def _alternative(spoken: Words, mention: Mention) -> bool:
    """ "a duck or a goose": surely neither."""
    around = (
        *spoken[max(0, mention.first - _OR_REACH) : mention.first],
        *spoken[mention.last : mention.last + _OR_REACH - 1],
    )
    return "or" in around


def _likeness(spoken: Words, mention: Mention) -> bool:
    before = spoken[max(0, mention.first - 3) : mention.first]
    after = spoken[mention.last : mention.last + 1]
    if before[-2:] in (("like", "a"), ("like", "an"), ("as", "a"), ("as", "an")):
        return True
    near = before[-1:] if not before or before[-1] not in ("a", "an", "the", "of") else before
    likeness_of = "of" in before and bool(DEPICTIONS.intersection(before[:2]))
    directly = bool(DEPICTIONS.intersection(near[-1:]))
    return directly or likeness_of or after in (("shaped",), ("themed",), ("like",), ("shape",))


def _is_bare(spoken: Words, mention: Mention) -> bool:
    before = spoken[max(0, mention.first - 4) : mention.first]
    return not any(word in _DETERMINERS or word in NUMBERS or word.isdigit() for word in before)


def _before_modal(spoken: Words, mention: Mention, hedge: int) -> bool:
    """ "a car could come along": no car that is there."""
    article = spoken[max(0, mention.first - 2) : mention.first]
    return hedge - mention.last <= 1 and bool({"a", "an", "some", "any"}.intersection(article))
