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
from laterna.scenes.vocabulary import DEPICTIONS, Mention

Words = tuple[str, ...]
Polarity = Literal["affirmed", "negated", "uncertain"]

_NEGATORS = frozenset("no not without never none neither nor cannot lacks lacking lack".split())
_NEGATIVE_PHRASES = (
    ("instead", "of"), ("rather", "than"), ("other", "than"), ("absence", "of"),
    ("devoid", "of"), ("free", "of"), ("free", "from"), ("unlike",), ("except",),
)  # fmt: skip
_ENDS_DENIAL = frozenset(". ; : ! ? but however although though while only just".split())
_NEW_CLAUSE = frozenset(
    "there it they he she we you i the this that these those which making giving so and".split()
)
_AFTER_ANSWER = frozenset(", . ; : ! the it there they this that these those he she a an".split())
"""After a "no" that answers a question, and so denies nothing that follows."""
_HEDGES = frozenset(
    """might may could would should possibly perhaps probably likely potentially potential maybe if
    whether suggest suggests suggesting suggested imply implies implying hypothetically unless
    assume assuming presumably plausible possible conceivably ideally future imagine imagining
    will shall won't you'll we'll they'll it'll he'll she'll tomorrow soon often usually typically
    generally commonly sometimes normally traditionally frequently whenever""".split()
)
_MILD_HEDGES = frozenset(
    """appears appear appearing seems seem seemingly apparently can when must need needs indicates
    indicate indicating example instance like such necessary essential important""".split()
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
_BORDERS = frozenset(". ; : ! ? but however although though while whereas".split())
_SUPPOSED = frozenset(
    """resembles resemble resembling resembled reminiscent reminds reminding imitating imitates
    mimics mimicking evokes evoking awaiting expecting hoping wants wanting hopes wishes intends
    planning prefers seeking named called titled labeled labelled says symbolizes symbolizing
    allows allowing allow enables enabling designed intended meant suitable capable ideal perfect
    pretending inspired suited able later until signifying bought belongs belonging owned
    had than impression warns warning lives live""".split()
)
"""Words after which, in their clause, things are thought of and not seen."""
_KINDS = frozenset(
    """items objects things animals elements details accessories utensils vehicles fruits vegetables
    foods pets belongings devices supplies furniture features""".split()
)
"""After these, "like" lists what there is; after all else it compares."""
_HOLDS = frozenset("seats seat accommodates accommodate fits fit sleeps".split())
"""Verbs for how many there is room for: "seats five"."""
_LIKENESS_OF = frozenset(
    """size shape form colour color pattern taste smell style kind grace build speed strength
    elegance energy""".split()
)
_PLACES_FOR = frozenset("destination place spot space room area popular".split())
_ELSEWHERE = (("in", "summer"), ("in", "winter"), ("at", "home"))
"""With these, a sentence speaks of another time or place."""
_AFTERTHOUGHTS = frozenset("perhaps maybe possibly probably presumably".split())
_PREPOSITIONS = frozenset(
    """with on in at near next beside behind by above below under over from into through along
    across between around inside outside while where which that who is are was were has have
    sits sit stands stand lies lie , and""".split()
)
_COMPARED = frozenset("if though a an the in on at big tall large".split())
_DEFINITE = frozenset("the these those".split())
_INDEFINITE_TO = _DETERMINERS | frozenset("left right top bottom side front back".split())
"""After "to", these make of it a direction or a neighbour, no purpose."""
_GENERIC_VERBS = frozenset(
    """is are can need needs require requires love loves like likes tend tends make makes provide
    provides live lives eat eats help helps have has use serve serves bring brings enjoy enjoys
    come comes play plays""".split()
)
_GENERIC_WORDS = frozenset(
    """known considered popular famous common essential important useful used loved called
    domesticated trained bred found a an the to meant designed not also many different
    all""".split()
)
_HERE = frozenset("the this these here there her his its their one nearby".split())
_HABITS = _GENERIC_VERBS - {"is", "are", "can", "has", "have"}
_POSITIONAL = frozenset(
    """in on at near next beside behind by above below under over there here present visible
    everywhere along across between around inside outside to""".split()
)


def first_hedge(spoken: Words, kind: Kind) -> int:
    """Return the index of the first hedging word, or the number of words."""
    mild = _MILD_HEDGES if kind in _REASONING else frozenset()
    if "elsewhere" in spoken or any(pair in _ELSEWHERE for pair in pairwise(spoken)):
        return 0
    if _speaks_in_general(spoken):
        return 0
    for at, word in enumerate(spoken):
        if word not in _HEDGES and word not in mild:
            continue
        opens = word in ("can", "could", "will", "may") or word.endswith("ll")
        if opens and _SEEING.intersection(spoken[at + 1 : at + 4]):
            continue  # "can be seen" says that it is there
        if word.startswith("appear") and spoken[at + 1 : at + 2] in (("on",), ("in",), ("at",)):
            continue  # "appears on the left" says where it is
        last = at + 2 >= len(spoken) and word in _AFTERTHOUGHTS  # "it seats five, perhaps"
        return 0 if last else at
    return len(spoken)


def is_verb(spoken: Words, mention: Mention) -> bool:
    """Tell whether the mention is a verb: "to book a flight", "can train"."""
    if mention.plural or mention.last - mention.first > 1 or not mention.first:
        return False
    before = spoken[mention.first - 1]
    if before == "to" and mention.first > 1 and spoken[mention.first - 2] in _TO_IS_PLACE:
        return False
    return before in _VERB_BEFORE


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
    if bare and mention.plural and not _SHOWN.intersection(spoken):
        general = not mention.first and not _HERE.intersection(spoken)
        if kind != "detail" or general:
            return "uncertain"  # "Dogs are social animals": of dogs, not of the picture
    return "uncertain" if _is_generic(spoken, mention, bare) else "affirmed"


def is_denied(spoken: Words, first: int, last: int) -> bool:
    """Tell whether a negation covers the words from `first` on: "no dogs, cats or birds"."""
    for at in range(first - 1, -1, -1):
        word = spoken[at]
        if word in _ENDS_DENIAL or (word == "," and spoken[at + 1] in _NEW_CLAUSE):
            break
        if word in ("no", "nope") and spoken[at + 1] in _AFTER_ANSWER:
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


def is_supposed(spoken: Words, first: int) -> bool:
    """Tell whether the clause before `first` makes of what follows a purpose, wish or likeness."""
    near = True  # nothing but the noun phrase's own words between
    for at in range(first - 1, -1, -1):
        word = spoken[at]
        if word in _BORDERS or (word == "," and spoken[at + 1] in _NEW_CLAUSE):
            return False
        if word in _SUPPOSED or (word == "like" and (not at or spoken[at - 1] not in _KINDS)):
            return True
        if word == "to" and _is_infinitive(spoken, at):
            return True
        if word == "as" and (spoken[at + 1] in _COMPARED or spoken[at - 2 : at - 1] == ("as",)):
            return True
        if word in _LIKENESS_OF and spoken[at + 1] == "of":
            return True
        if word in _HOLDS and (spoken[at + 1] == "up" or _is_number(spoken[at + 1])):
            return True
        if word == "for" and spoken[at - 1 : at] and spoken[at - 1] in _PLACES_FOR:
            return True
        if near and word == "about" and not _is_number(spoken[at + 1]):
            return True  # "warns about horses", but "about three horses" is how many
        if near and word == "from" and spoken[at - 1 : at] == ("away",):
            return True
        if near and at and word == "for" and spoken[at + 1] not in _DEFINITE:
            return True  # "set for four people", but not "the reason for these people"
        near = near and word not in _PREPOSITIONS
    return False


def _is_number(word: str) -> bool:
    return word in NUMBERS or word.isdigit()


def is_likeness(spoken: Words, mention: Mention) -> bool:
    """Tell whether a thing is a toy, a statue, a picture or in the shape of what is named."""
    before = spoken[max(0, mention.first - 3) : mention.first]
    after = spoken[mention.last : mention.last + 1]
    if after and after[0] in DEPICTIONS:
        return True
    near = before[-1:] if not before or before[-1] not in ("a", "an", "the", "of") else before
    likeness_of = "of" in before and bool(DEPICTIONS.intersection(before[:2]))
    return bool(DEPICTIONS.intersection(near[-1:])) or likeness_of


def _is_infinitive(spoken: Words, at: int) -> bool:
    after, before = spoken[at + 1], spoken[at - 1] if at else ""
    if before.startswith(("appear", "seem", "happen")):
        return False
    if (
        before in _TO_IS_PLACE
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
    return not any(word in _DETERMINERS or word in NUMBERS or word.isdigit() for word in before)


def _before_modal(spoken: Words, mention: Mention, hedge: int) -> bool:
    """ "a car could come along", "four people will eat": none that are there."""
    before = spoken[max(0, mention.first - 2) : mention.first]
    indefinite = {"a", "an", "some", "any", *NUMBERS}.intersection(before)
    return hedge - mention.last <= 1 and bool(indefinite) and not _DEFINITE.intersection(before)


def _speaks_in_general(spoken: Words) -> bool:
    """ "Owning a cat is easy": begins with a doing, not with "Sitting on the bench is"."""
    begins = spoken[:1] and spoken[0].endswith("ing") and len(spoken[0]) > 5
    if not begins or spoken[1:2] == () or spoken[1] in _POSITIONAL | {"in", "front"}:
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
    if verb not in _GENERIC_VERBS or _SHOWN.intersection(spoken) - {"have", "has"}:
        return False
    if verb in _HABITS or then in _GENERIC_WORDS or verb == "can":
        return True
    shown = then in _POSITIONAL or then.endswith(("ing", "ed"))
    return verb in ("are", "have") and mention.plural and not shown
