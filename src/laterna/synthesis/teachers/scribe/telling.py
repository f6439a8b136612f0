"""Reads captions as sentences: who, how many, doing what, in which clothes, where.

Captions are plain: a subject, a verb, what follows. What is read here is only what has that form
beyond doubt and no fault of grammar that simple rules find: no article missing or doubled, number
and verb agreeing, no word that the dataset's other captions make a slip. All else is passed over.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from importlib import resources
from itertools import pairwise
from typing import NamedTuple

import msgspec

from laterna.scenes.kinds import MASS, PLURAL_ONLY, hypernyms, is_a, kind_of
from laterna.scenes.phrases import starts_with_a_vowel
from laterna.scenes.vocabulary import COLOURS, UNITS, plural


class _Grammar(msgspec.Struct, forbid_unknown_fields=True):
    determiners: str
    numbers: str
    prepositions: str
    boundaries: str
    adverbs: str
    adjectives: str
    unusable: str
    intransitive_end: str
    lays: str
    verbs: str
    exclusive: tuple[str, ...]
    postures: dict[str, str]


_READ = msgspec.toml.decode(
    resources.files(__package__).joinpath("grammar.toml").read_bytes(), type=_Grammar
)
DETERMINERS = frozenset(_READ.determiners.split())
PREPOSITIONS = frozenset(_READ.prepositions.split())
_NUMBERS = frozenset(_READ.numbers.split())
BOUNDARIES = frozenset(_READ.boundaries.split())
_ADVERBS = frozenset(_READ.adverbs.split())
_ADJECTIVES = frozenset(_READ.adjectives.split()) | COLOURS
_UNUSABLE = frozenset(_READ.unusable.split())
_NO_END = frozenset(_READ.intransitive_end.split())
_LAYS = frozenset(_READ.lays.split())
_BE = ("is", "are")
_GATHERED = frozenset(
    "group pair couple bunch crowd team herd pack flock trio line row set".split()
)
_GIVES = frozenset("give hand throw toss show offer feed teach".split())
_GOES_WITH = frozenset("go enjoy practice start begin stop try".split())
_LONGEST = 24
"""Words of a caption that is read, at most."""
_WORD = re.compile(r"[a-z]+(?:['-][a-z]+)*'?$")
_DOUBLING = re.compile(r"[^aeiou]*[aeiou][bdgklmnprt]$")


def ing(verb: str) -> str:
    """Return "running" of "run"."""
    if verb.endswith("ie"):
        return verb[:-2] + "ying"
    if verb.endswith("e") and not verb.endswith(("ee", "ye", "oe")):
        return verb[:-1] + "ing"
    doubled = _DOUBLING.match(verb) or verb == "begin"
    return f"{verb}{verb[-1] if doubled else ''}ing"


def third_person(verb: str) -> str:
    """Return "runs" of "run"."""
    return {"have": "has", "do": "does", "go": "goes"}.get(verb) or plural(verb)


_VERBS = tuple(_READ.verbs.split())
_BASE = {verb: verb for verb in _VERBS} | {"lay": "lie"}
_FINITE = {third_person(verb): verb for verb in _VERBS} | {"lays": "lie"}
_ING = {ing(verb): verb for verb in _VERBS} | {"laying": "lie"}
_FORMS = _FINITE | _ING
EXCLUSIVE = tuple(frozenset(line.split("|")) for line in _READ.exclusive)
STILL, MOVING = (frozenset(_READ.postures[name].split()) for name in ("still", "moving"))


class Telling(NamedTuple):
    """What one caption tells of its subject."""

    subject: tuple[str, ...]
    """As it is said, with its article: "a little girl in a pink dress"."""
    head: str
    """The kind that the subject is, in the singular; empty where there are two ("a man and …")."""
    noun: str
    """How the subject is called again: "girl", "dogs", "football player"."""
    several: bool
    number: str
    """The word for how many, where there is one."""
    verb: str
    """In its base form; "be" where the subject is told to be somewhere or somehow."""
    doing: tuple[str, ...]
    """From the verb on, as what goes on: "climbing up a set of stairs"."""
    more: tuple[str, ...]
    """What else is said: from "while", "that" or a comma on."""

    @property
    def sentence(self) -> str:
        """Return it as one sentence."""
        be = () if self.verb == "be" else ("are" if self.several else "is",)
        return as_sentence((*self.subject, *be, *self.doing, *self.more))

    @property
    def words(self) -> tuple[str, ...]:
        """Return all its words."""
        return (*self.subject, *self.doing, *self.more)


def as_sentence(words: tuple[str, ...]) -> str:
    """Return words as a sentence: its first letter large, a full stop at its end."""
    text = " ".join(words).replace(" ,", ",")
    return f"{text[:1].upper()}{text[1:]}."


def read_telling(caption: str, slips: frozenset[str]) -> Telling | None:
    """Return what a caption tells, or None where it is not beyond doubt."""
    text = caption.lower().replace(" 's", "'s").replace("’", "'").strip().rstrip(".").strip()
    spoken = tuple(text.replace(",", " , ").split())
    if spoken[:1] == ("there",) and spoken[1:2] in (("is",), ("are",)):
        spoken = spoken[2:]
    if not 4 <= len(spoken) <= _LONGEST or spoken.count(",") > 1:
        return None
    words = set(spoken) - {","}
    if words & (slips | _UNUSABLE) or not all(map(_WORD.match, words)):
        return None
    found = _read(spoken)
    return found if found and _is_sound(found) else None


def is_noun(word: str) -> bool:
    """Tell whether a word names a thing, and nothing else that matters here."""
    return kind_of(word) is not None and word not in _ADJECTIVES and word not in _ING


def is_plural(word: str) -> bool:
    """Tell whether a noun is in the plural."""
    kind = kind_of(word)
    return word in PLURAL_ONLY or word == "people" or (kind is not None and kind != word)


def _read(spoken: tuple[str, ...]) -> Telling | None:
    subject = _subject(spoken)
    if subject is None:
        return None
    end, noun, head, several = subject
    limit = next((at for at in range(end, len(spoken)) if spoken[at] in BOUNDARIES), len(spoken))
    if spoken[limit : limit + 1] and spoken[limit] not in ("while", "as", ",", "that", "whilst"):
        return None
    found = _main_verb(spoken, end, limit, several=several)
    if found is None:
        return None
    at, first = found
    doing = _going_on(spoken[first:limit], several=several)
    number = spoken[0] if spoken[0] in _NUMBERS else ""
    before = spoken[:at]
    if (
        before[0] not in DETERMINERS | {"someone", "somebody"}
        and not is_plural(noun.split()[-1])
        and head
    ):
        article = "an" if starts_with_a_vowel(before[0]) else "a"
        before = (article, *before)
    if doing is None:
        return None
    if before[-1] in _ADVERBS:
        return None  # "a player just taking a swing"
    verb = "be" if doing[0] in _BE else _ING[doing[0]]
    more = spoken[limit:]
    return Telling(before, head, noun, several, number, verb, doing, more)


def _subject(spoken: tuple[str, ...]) -> tuple[int, str, str, bool] | None:
    """Return where the subject's own words end, its noun, its kind, and whether it is several."""
    first = _noun_phrase(spoken, 0)
    if first is None:
        return None
    end, noun, several = first
    if spoken[end : end + 1] == ("and",):
        second = _noun_phrase(spoken, end + 1)
        if second is None or spoken[second[0] : second[0] + 1] == ("and",):
            return None
        return second[0], "they", "", True
    return end, noun, kind_of(noun.split()[-1]) or "", several


def _noun_phrase(spoken: tuple[str, ...], first: int) -> tuple[int, str, bool] | None:
    """Return the end of the noun phrase at an index, its noun, and whether it is of several."""
    at = first
    gathered = False
    while at < len(spoken):
        word = spoken[at]
        if word == "of" and at and spoken[at - 1] in _GATHERED:
            gathered, at = True, at + 1
            continue
        here = is_noun(word) and word not in _GATHERED
        following = spoken[at + 1] if at + 1 < len(spoken) else "."
        if here and not (is_noun(following) and following not in _FORMS and not is_plural(word)):
            break
        if (
            word in PREPOSITIONS | BOUNDARIES
            or word in _BE
            or (word in DETERMINERS and at > first + 2)
        ):
            return None
        at += 1
    if at >= len(spoken):
        return None
    noun = " ".join(spoken[_start_of_compound(spoken, at) : at + 1])
    several = is_plural(spoken[at])
    if gathered and not several:
        return None
    counted = spoken[first] in _NUMBERS - {"one"} or spoken[first] in ("several", "many", "some")
    single = spoken[first] in ("a", "an", "one", "another") and not gathered
    return None if (counted and not several) or (single and several) else (at + 1, noun, several)


def _start_of_compound(spoken: tuple[str, ...], at: int) -> int:
    """Return where a noun of two words begins: "football player"."""
    before = spoken[at - 1] if at else "a"
    known = is_noun(before) and not is_plural(before)
    return at - 1 if known and before not in DETERMINERS | PREPOSITIONS else at


def _main_verb(
    spoken: tuple[str, ...], end: int, limit: int, *, several: bool
) -> tuple[int, int] | None:
    """Return where the subject ends and where what it does begins."""
    finite = _BASE if several else _FINITE
    participle = None
    for at in range(end, limit):
        word, before = spoken[at], spoken[at - 1]
        if word in _BE:
            if (word == "are") != several:
                return None
            after = at + 1
            while spoken[after : after + 1] and spoken[after] in _ADVERBS:
                after += 1
            going_on = after < limit and spoken[after] in _ING
            return (at, at + 1) if going_on and after == at + 1 else (at, at)
        behind = is_noun(before) or before in _ADVERBS or before in UNITS[1:]
        if word in finite and behind and before not in PREPOSITIONS:
            return (at, at)
        if word in (_FINITE if several else _BASE) and behind and not is_noun(word):
            return None  # number and verb disagree
        if word in _ING and behind and (participle is None or spoken[participle] == "wearing"):
            participle = at  # "a man wearing a hat riding a horse" rides
    return (participle, participle) if participle is not None else None


def _going_on(words: tuple[str, ...], *, several: bool) -> tuple[str, ...] | None:
    """Return what is done in the form with -ing; None where a second verb does not go with it."""
    if not words:
        return None
    if words[0] in _BE:
        return words if len(words) > 1 and words[1] not in ("being", "having") else None
    form = _BASE if several else _FINITE
    was_finite = words[0] in form
    made = [ing(form[words[0]]) if was_finite else ing(_ING[words[0]])]
    if words[0] in ("laying", "lays", "lay") and words[1:2] and words[1] not in _LAYS:
        return None  # something is laid
    if words[1:2] and words[1] in _ING and _ING.get(words[0]) not in _GOES_WITH:
        return None  # "splashing running"
    for before, word in pairwise(words):
        joined = before in ("and", "then") or (before in _ADVERBS and "and" in words)
        if joined and word in form and not (is_noun(word) and not was_finite):
            if not was_finite:
                return None
            word = ing(form[word])
        elif joined and word in _ING and was_finite:
            return None
        elif word == "laying":
            word = "lying"
        made.append(word)
    return tuple(made)


def _is_sound(telling: Telling) -> bool:
    """Tell whether no fault of grammar is found."""
    words = telling.words
    second = {pair for pair in pairwise(telling.subject) if pair[0] == "and"}
    if telling.head and not telling.several and any(word in DETERMINERS for _, word in second):
        return False  # "a man on a bike and another man is crossing"
    if words[-1] in _NO_END or (telling.doing[-1] in _NO_END):
        return False
    if any(one == other for one, other in pairwise(words)):
        return False
    for at, word in enumerate(words):
        after = words[at + 1] if at + 1 < len(words) else ""
        known = is_noun(word) and word not in _FORMS
        if word in ("a", "an", "the", "and") and after in ("with", "of", "at", "and", ""):
            return False  # "down a with path"
        if known and after in ("a", "an", "the") and telling.verb not in _GIVES:
            return False  # "his head a face"
        if (known or word in COLOURS) and _may_be_finite(after) and words[at + 2 : at + 3] != ():
            return False  # "wearing a coat winks at"
        several = known and is_plural(word) and word not in PLURAL_ONLY
        if several and is_noun(after) and after not in _FORMS:
            return False  # "the waters edge"
        if word in ("a", "an") and after and (word == "an") != starts_with_a_vowel(after):
            return False
    return not any(_lacks_article(words, at) for at in range(len(words)))


_BARE = frozenset(
    """top front midair mid-air stage tow hand line class foot shore work play camp school town bed
    horseback nature night day sunset dusk daylight sunlight flight motion action background
    air place church leash""".split()
)
"""Nouns that go without an article in a common phrase: "in front of", "on stage"."""


def _may_be_finite(word: str) -> bool:
    """Tell a word that may be a verb that is not known: it ends so, and is nothing else known."""
    known = is_noun(word) or word in DETERMINERS | PREPOSITIONS | BOUNDARIES | _ADVERBS
    return word.endswith("s") and not word.endswith(("ss", "'s")) and word not in _BE and not known


def _lacks_article(words: tuple[str, ...], at: int) -> bool:
    """Tell whether the noun at an index is single and counted and has no article before it.

    Or is in the plural, or not the number's, behind one that wants a single thing.
    """
    word = words[at]
    following = words[at + 1] if at + 1 < len(words) else "."
    if not is_noun(word) or word in _FORMS or word in MASS or word in _BARE:
        return False
    ends = following in PREPOSITIONS | BOUNDARIES | _ADVERBS | {".", "and", "or", "is", "are"}
    ends = ends or following in _ING or following in DETERMINERS
    if not ends:
        return False
    several = is_plural(word)
    for back in range(at - 1, max(-1, at - 6), -1):
        before = words[back]
        if before.endswith(("'s", "s'")):
            return False
        if before in DETERMINERS:
            if before in ("a", "an", "another", "one", "each", "every", "this", "that"):
                return several
            return not several and (
                before in _NUMBERS or before in ("several", "many", "both", "few")
            )
        if before == "of" and words[back - 1] in _GATHERED:
            return not several
        if before in ("and", "or"):
            return False
        if before in PREPOSITIONS or before in BOUNDARIES or before in _BE or before in _ING:
            return not several
        if before in _ADVERBS and before not in ("high", "low"):
            return not several
    return False


def phrases_of(words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Yield words in pieces that begin with a preposition (the first with anything)."""
    start = 0
    for at, word in enumerate(words):
        compound = at and (words[at - 1] in PREPOSITIONS or word == "of")
        if at and word in PREPOSITIONS and not compound:
            yield words[start:at]
            start = at
    yield words[start:]


@lru_cache(maxsize=65536)
def root(word: str) -> str:
    """Return what forms of a word have in common: "run" of "running", "dog" of "dogs"."""
    for forms in (_ING, _FINITE):
        if word in forms and not is_noun(word):
            return forms[word]
    return kind_of(word) or _FORMS.get(word) or word.removesuffix("s")


def related(one: str, other: str) -> bool:
    """Tell whether two kinds may be one thing: the same, or one a kind of the other.

    Two words for a person are, unless they tell two sexes or two ages apart.
    """
    if is_a(one, other) or is_a(other, one):
        return True
    if not (is_a(one, "person") and is_a(other, "person")):
        return False
    return not (_sides(one) and _sides(other))


def _sides(kind: str) -> frozenset[str]:
    return frozenset(("man", "woman", "child", "boy", "girl", "baby", "crowd")) & {
        kind,
        *hypernyms(kind),
    }
