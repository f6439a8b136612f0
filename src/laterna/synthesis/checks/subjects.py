"""Finds the thing that a clause says a place of: before the phrase, after it, or a clause before.

"A dog is on the left", "on the left there is a dog", "a dog, which is asleep, is on the left".
"""

from __future__ import annotations

from laterna.synthesis.checks.places import Phrase
from laterna.synthesis.checks.reading import Naming, Sentence
from laterna.synthesis.checks.viewing import is_lead

BORDERS = frozenset(". ; : ! ? , while whereas but".split())
_PREPOSITIONS = frozenset(
    """of to near behind by with beside on in at from under against around between beneath alongside
    over onto for into inside holding carrying above below than""".split()
)
IN_NOUN_PHRASE = frozenset(
    """a an the another other one two three four five several some his her its their this that these
    those small large big red green blue brown black white yellow orange""".split()
)
_STAND_INS = frozenset("one another ones others other first second".split())
_OPENERS = frozenset(
    """and also with just directly slightly immediately right over the then situated located
    positioned placed standing sitting seated lying resting parked seen found somewhere far off
    away out only toward towards visible present shown pictured""".split()
)
_PARTS = frozenset(
    """, there is are sits stands lies one we you see sees finds notices shows show features feature
    contains contain holds includes include has displays depicts reveals presents""".split()
)
LINKS = frozenset(
    """is are was were sits stands lies rests appears located positioned situated placed
    visible seen can be found standing sitting lying resting which that off""".split()
)
BESIDE = frozenset("next beside besides near by alongside adjacent close".split())
SLIGHTLY = frozenset("just directly slightly immediately right only".split())
_LEADS = frozenset(
    "at in on below above behind beneath under near by against along within inside over parked "
    "placed positioned located situated standing sitting seated lying resting".split()
)
"""What may open a clause before the phrase: "at the back of the room on the left, a dog"."""
_LONGEST_LEAD = 9
_REACH = 10
"""Words to the subject of a clause that opens with its place: "is a small, dark, old dog"."""
_PART_OF = frozenset("back front top bottom corner edge end part half rest tip silhouette".split())
_GENERIC = frozenset("thing one object item figure animal creature vehicle".split())
_STANDING = frozenset(
    "located placed positioned situated standing sitting lying resting parked occupying".split()
)
_OWN_PLACE = (("position",), ("place",), ("location",), ("spot",))
_FINITE = frozenset("is are was were has have had sits stands lies rests there".split())
_ASIDES = frozenset("this time again also too as well though".split())


def clause_start(sentence: Sentence, before: int) -> int:
    """Return the index at which the clause of the word before an index starts."""
    for at in range(before - 1, -1, -1):
        if sentence.words[at] in BORDERS:
            return at + 1
    return 0


def find_subjects(sentence: Sentence, phrase: Phrase, end: int) -> tuple[Naming, ...]:
    """Return the things that a phrase may be said of, where `end` is after what it is to."""
    start = clause_start(sentence, phrase.first)
    subjects = _before(sentence, start, phrase.first)
    if not subjects:
        subjects = inverted(sentence, start, phrase, end)
    if not subjects and start > 1 and sentence.words[start - 1] == ",":
        subjects = _before_comma(sentence, start, phrase.first)
    if not subjects:
        subjects = (
            _where(sentence, start, phrase, end)
            or _it(sentence, start, phrase.first)
            or _identified(sentence, start, phrase, end)
        )
    return subjects


def next_naming(sentence: Sentence, at: int, reach: int) -> Naming | None:
    """Return the first thing named from an index on, within so many words."""
    for naming in sentence.namings:
        if at <= naming.first < at + reach:
            return naming
    return None


def _before(sentence: Sentence, start: int, end: int) -> tuple[Naming, ...]:
    """Return the nearest thing named before the phrase, and those it may be a part of.

    "A man with a dog on the left" may speak of either. A thing after a preposition alone is no
    subject: in "a lamp next to the chair on the left", the lamp may be meant.
    """
    found: list[Naming] = []
    for naming in reversed(sentence.namings):
        if not start <= naming.first < end:
            continue
        found.append(naming)
        if is_owner(sentence.words, naming):
            continue
        if not _after_preposition(sentence.words, start, naming.first):
            return tuple(found)
    if found:
        between = sentence.words[found[0].last : end + 1]
        # "begins with a dog standing on the left": whatever stands before it, the dog does
        own = between[0] in _STANDING and _after_with(sentence.words, found[0].first)
        return tuple(found) if own else ()
    return _antecedent(sentence, start, end)


def is_owner(spoken: tuple[str, ...], naming: Naming) -> bool:
    """Tell whether something of a thing is spoken of: "the dog's leash", not its position."""
    owns = spoken[naming.last : naming.last + 1] == ("s",)
    return owns and spoken[naming.last + 1 : naming.last + 2] not in _OWN_PLACE


def _before_comma(sentence: Sentence, start: int, first: int) -> tuple[Naming, ...]:
    """Return the subject of a clause that a comma cuts off from it.

    "A chair is in the corner, on the left"; "the dog, which is asleep, is on the left".
    """
    between = sentence.words[start:first]
    if not set(between) <= LINKS | SLIGHTLY | _ASIDES:
        return ()
    earlier = clause_start(sentence, start - 1)
    if between and earlier > 1 and sentence.words[earlier] in ("which", "who", "that"):
        return _before(sentence, clause_start(sentence, earlier - 1), earlier - 1)
    aside = not any(earlier <= naming.first < start for naming in sentence.namings)
    if between and earlier > 1 and aside and between[0] in ("is", "are", "was", "were"):
        return _before(sentence, clause_start(sentence, earlier - 1), earlier - 1)
    nearest = [naming for naming in sentence.namings if naming.last == start - 1]
    if between[:1] == ("which",) and nearest and _after_with(sentence.words, nearest[0].first):
        return (nearest[0],)
    return _before(sentence, earlier, start)


def _after_with(spoken: tuple[str, ...], first: int) -> bool:
    """Tell whether a thing is the one that something else is with: "a cup with a spoon"."""
    while first and spoken[first - 1] in IN_NOUN_PHRASE:
        first -= 1
    return spoken[first - 1 : first] == ("with",)


def _antecedent(sentence: Sentence, start: int, end: int) -> tuple[Naming, ...]:
    """Return what "one" and "another" stand for: "two cups, one on the left"."""
    if not _STAND_INS.intersection(sentence.words[start:end]):
        return ()
    earlier = [naming for naming in sentence.namings if naming.first < start]
    return (earlier[-1],) if earlier and earlier[-1].plural else ()


def inverted(sentence: Sentence, start: int, phrase: Phrase, end: int) -> tuple[Naming, ...]:
    """Return the subject that follows: "To the left of the cat, there is a dog"."""
    if not _is_front(sentence, start, phrase.first):
        return ()
    end = _after_aside(sentence, end)
    subject = next_naming(sentence, end, _REACH)
    if subject is None or "." in sentence.words[end : subject.first]:
        return ()
    if _after_preposition(sentence.words, end, subject.first):
        return ()
    # a comma, a verb or an article must part them, not another thing of the same place
    between = sentence.words[end : subject.first]
    parted = bool(_PARTS.intersection(between)) or between[:1] in (("a",), ("an",))
    if phrase.anchor == "pronoun" and between == ("the",):
        parted = True  # "and to the left of it the dog"
    return (subject,) if parted else ()


def _after_aside(sentence: Sentence, end: int) -> int:
    """Return where a sentence goes on after an aside that names nothing: ", half hidden, is"."""
    if sentence.words[end : end + 1] != (",",):
        return end
    for at in range(end + 1, min(end + 8, len(sentence.words) - 1)):
        if sentence.words[at] == "," and sentence.words[at + 1] in _PARTS:
            named = any(end <= naming.first < at for naming in sentence.namings)
            return end if named else at
    return end


def _is_front(sentence: Sentence, start: int, first: int) -> bool:
    """Tell whether a phrase opens its clause, or follows "beside the cat" there."""
    words = sentence.words[start:first]
    if BESIDE.intersection(words[:2]):
        inside = [n for n in sentence.namings if start <= n.first and n.last <= first]
        return len(inside) == 1 and inside[0].last == first
    return set(words) <= _OPENERS or is_lead(words) or _is_other_place(sentence, start, first)


def _is_other_place(sentence: Sentence, start: int, first: int) -> bool:
    """Tell whether another place opens the clause, which names nothing: "in the middle ground"."""
    words = sentence.words[start:first]
    named = any(start <= naming.first < first for naming in sentence.namings)
    if named or not words or words[0] not in _LEADS or len(words) > _LONGEST_LEAD:
        return False
    return not _FINITE.intersection(words)


def _where(sentence: Sentence, start: int, phrase: Phrase, end: int) -> tuple[Naming, ...]:
    """Return the subject of "on the left, where a dog is" and "it is on the left that a dog is"."""
    words = sentence.words
    cleft = words[start : phrase.first] in (("it", "is"), ("it", "was")) and words[end : end + 1]
    after = end + (words[end : end + 1] == (",",))
    if words[after : after + 1] != ("where",) and cleft != ("that",):
        return ()
    subject = next_naming(sentence, after, 5)
    if subject is None or _after_preposition(words, after, subject.first):
        return ()
    return (subject,)


def _identified(sentence: Sentence, start: int, phrase: Phrase, end: int) -> tuple[Naming, ...]:
    """Return what "the thing on the left" is said to be: "is a dog"."""
    words = sentence.words
    generic = [at for at in range(start, phrase.first) if words[at] in _GENERIC]
    if not generic or not set(words[generic[-1] + 1 : phrase.first]) <= LINKS:
        return ()
    subject = next_naming(sentence, end, 5)
    if words[end : end + 1] not in (("is",), ("was",)) or subject is None:
        return ()
    return (subject,) if set(words[end + 1 : subject.first]) <= IN_NOUN_PHRASE else ()


def _it(sentence: Sentence, start: int, end: int) -> tuple[Naming, ...]:
    """Return what "it" must stand for: "as for the dog, it is", where no other thing is named."""
    clause = sentence.words[start:end]
    if "it" not in clause or not set(clause) <= LINKS | SLIGHTLY | {"it", "and"}:
        return ()
    earlier = [naming for naming in sentence.namings if naming.last <= start]
    alone = len(earlier) == 1 and not earlier[0].plural and earlier[0].category != "person"
    return (earlier[0],) if alone else ()


def _after_preposition(spoken: tuple[str, ...], start: int, first: int) -> bool:
    for at in range(first - 1, start - 1, -1):
        if spoken[at] == "by" and at > start and spoken[at - 1].endswith(("ed", "up", "en")):
            return False  # "is occupied by a dog"
        if spoken[at] == "with" and at == start > 0:
            return False  # ", with a dog on the left"
        if spoken[at] == "of" and spoken[at - 1] in _PART_OF:
            return False  # "the back of a dog"
        if spoken[at] in _PREPOSITIONS:
            return True
        if spoken[at] not in IN_NOUN_PHRASE:
            return False
    return False
