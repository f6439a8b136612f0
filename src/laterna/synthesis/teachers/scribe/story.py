"""Composes what several captions of one photograph tell together, without contradiction.

What people wrote is kept: one caption opens, and of the others that speak of the same and do not
contradict it, what it has not told yet is added. People err and see different things, so that of
two captions that cannot both be true the one that more others go with is used.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from laterna.scenes.facts import Facts, place_if_certain
from laterna.scenes.kinds import MASS, NOT_SEEN, PLURAL_ONLY, is_a, kind_of, meant, taken_for
from laterna.scenes.phrases import NUMBERS, at_place, listed, with_article
from laterna.scenes.sampling import shuffled
from laterna.scenes.vocabulary import COLOURS, plural
from laterna.synthesis.teachers.scribe.telling import (
    BOUNDARIES,
    DETERMINERS,
    EXCLUSIVE,
    MOVING,
    PREPOSITIONS,
    STILL,
    Telling,
    as_sentence,
    is_noun,
    is_plural,
    phrases_of,
    read_telling,
    related,
    root,
)

SENTENCES = 3
"""Captions that a description is made of, at most."""
_NEW = 2
"""So many new words are worth another sentence."""
_BESIDES = 2
"""Boxed things that no sentence has named yet, told at the end, at most."""
_LITTLE = (
    DETERMINERS | PREPOSITIONS | BOUNDARIES | frozenset("is are and or it its very up".split())
)
_PERSON = {"someone": "person", "somebody": "person"}
_COLOURS = COLOURS | frozenset("tan beige cream golden maroon teal turquoise".split())
_PRONOUNS = {"man": "he", "boy": "he", "woman": "she", "girl": "she"}


class Story(NamedTuple):
    """What the captions of a photograph tell that goes together; the first is what most go with."""

    tellings: tuple[Telling, ...]

    @property
    def main(self) -> Telling:
        """The telling that the others are held to."""
        return self.tellings[0]

    @property
    def noun(self) -> str:
        """How the subject is called by most of them."""
        called = Counter(telling.noun for telling in self.tellings if telling.head)
        noun = max(called, key=lambda name: (called[name], name == self.main.noun), default="")
        return _PERSON.get(noun, noun) or "they"

    def again(self, time: int = 0) -> tuple[str, ...]:
        """Return the subject as it is called again: "they", "she" and "the girl" in turns."""
        if self.main.several:
            return ("they",)
        he = [word for kind, word in _PRONOUNS.items() if is_a(self.main.head, kind)]
        noun = _PERSON.get(self.main.noun, self.main.noun)
        return (he[0],) if he and time % 2 else ("the", *noun.split())

    def clothes(self) -> tuple[str, ...]:
        """Return what the only one that it is about wears, as some caption says it, or nothing."""
        for telling in self.tellings:
            found = clothes_of(telling)
            if found and not telling.several and is_a(telling.head, "person"):
                return found
        return ()


def read_story(
    captions: Iterable[str], slips: frozenset[str], rng: np.random.Generator
) -> Story | None:
    """Return the story that most captions go with, of equals one drawn by lot; None without any."""
    read = [told for told in (read_telling(caption, slips) for caption in captions) if told]
    if not read:
        return None
    read = shuffled(list(dict.fromkeys(read)), rng)
    agreeing = [sum(not contradict(one, other) for other in read) for one in read]
    order = sorted(range(len(read)), key=lambda at: (-agreeing[at], -_richness(read[at])))
    main = read[order[0]]
    kept = [main]
    for at in order[1:]:
        if not any(contradict(read[at], one) for one in kept):
            kept.append(read[at])
    return Story(tuple(kept))


def _richness(telling: Telling) -> int:
    return len(content(telling.words)) - 2 * (telling.verb in ("be", "wear")) - len(telling.more)


def content(words: Iterable[str]) -> frozenset[str]:
    """Return the roots of the words that tell something."""
    return frozenset(root(word) for word in words if word not in _LITTLE)


def contradict(one: Telling, other: Telling) -> bool:
    """Tell whether two captions cannot both be true of what they speak of, as far as is known."""
    return (
        not _same_subject(one, other)
        or ({one.verb, other.verb} <= STILL and one.verb != other.verb)
        or (one.verb in STILL and other.verb in MOVING)
        or (one.verb in MOVING and other.verb in STILL)
        or _excluded(content(one.words), content(other.words))
        or _differ_in_colour(one.words, other.words)
    )


def _same_subject(one: Telling, other: Telling) -> bool:
    if one.several != other.several or not one.head or not other.head:
        return one.subject == other.subject
    if one.number and other.number and one.number != other.number:
        return False
    return related(one.head, other.head)


def _excluded(one: frozenset[str], other: frozenset[str]) -> bool:
    return any(line & one and line & other and not line & one & other for line in EXCLUSIVE)


def _differ_in_colour(one: Sequence[str], other: Sequence[str]) -> bool:
    first, second = colours_in(one), colours_in(other)
    shared = first.keys() & second.keys()
    two_animals = any(
        not first[a] & second[b]
        for a in first
        for b in second
        if is_a(a, "animal") and is_a(b, "animal")
    )
    return two_animals or any(not first[name] & second[name] for name in shared)


def colours_in(words: Sequence[str]) -> dict[str, frozenset[str]]:
    """Return the things that words give colours to, by kind, with their colours."""
    found: dict[str, set[str]] = {}
    for at, word in enumerate(words):
        following = words[at + 1] if at + 1 < len(words) else "."
        if not is_noun(word) or is_noun(following):
            continue
        kind = root(word)
        for back in range(at - 1, max(-1, at - 6), -1):
            if words[back] in _COLOURS:
                found.setdefault(kind, set()).add(words[back])
            elif (words[back] in _LITTLE and words[back] != "and") or (
                words[back] == "and" and words[back - 1] not in _COLOURS
            ):
                break
    return {kind: frozenset(colours) for kind, colours in found.items()}


def clothes_of(telling: Telling) -> tuple[str, ...]:
    """Return what a telling's subject wears ("a pink dress"), or nothing."""
    words = (*telling.subject, *telling.doing)
    limit = len(telling.subject)
    for at, word in enumerate(words):
        worn = word == "wearing" or (word == "in" and at < limit)
        if not worn or (word == "wearing" and at > limit):
            continue
        end = at + 1
        while end < len(words) and (words[end] not in PREPOSITIONS | BOUNDARIES) and end != limit:
            if words[end].endswith("ing") and end > at + 1:
                break
            end += 1
        phrase = words[at + 1 : end]
        whole = phrase and (
            phrase[0] in DETERMINERS or (is_plural(phrase[-1]) and "and" not in phrase)
        )
        if whole and is_noun(phrase[-1]) and is_a(root(phrase[-1]), "clothing"):
            return phrase
    return ()


def retell(story: Story, facts: Facts, rng: np.random.Generator) -> str:
    """Return a description of several sentences."""
    main = story.main
    told = content(main.words)
    sentences = [main.sentence]
    for telling in shuffled(story.tellings[1:], rng):
        trimmed = _trimmed(telling._replace(more=()), told)
        new = content((*trimmed.doing, *trimmed.more)) - meant(told) - told
        new = frozenset(word for word in new if kind_of(word) is None or not meant((word,)) & told)
        if trimmed.verb in told:  # the same again, elsewhere: only more things make it news
            new = frozenset(word for word in new if not is_a(word, "place"))
        if len(new) < _NEW or len(sentences) == SENTENCES or trimmed.verb == "wear":
            continue
        again = story.again(len(sentences))
        be = () if trimmed.verb == "be" else ("are" if main.several else "is",)
        sentences.append(as_sentence((*again, *be, *trimmed.doing, *trimmed.more)))
        told |= content(trimmed.words)
    clothes = story.clothes()
    if clothes and not main.several and not is_told(clothes, told) and is_a(main.head, "person"):
        sentences.append(as_sentence((*story.again(len(sentences)), "is", "wearing", *clothes)))
        told |= content(clothes)
    return " ".join((*sentences, *_from_boxes(story, told, facts, rng)))


def is_told(words: tuple[str, ...], told: frozenset[str]) -> bool:
    """Tell whether things of this kind were told of, or what is taken for them."""
    new = content(words)
    kinds = {word for word in new if is_noun(word)}
    return bool(kinds & told) or _excluded(frozenset(kinds), told)


def _trimmed(telling: Telling, told: frozenset[str]) -> Telling:
    """Leave out the phrases at the end that tell what was told already."""
    pieces = list(phrases_of(telling.doing))
    known = meant(told) | told
    while len(pieces) > 1 and content(pieces[-1]) <= known and content(pieces[0]):
        pieces.pop()
    doing = tuple(word for piece in pieces for word in piece)
    shortened = len(doing) < len(telling.doing)
    ends_well = is_noun(doing[-1]) or len(doing) == 1
    return telling._replace(doing=doing) if shortened and ends_well else telling


def _from_boxes(
    story: Story, told: frozenset[str], facts: Facts, rng: np.random.Generator
) -> list[str]:
    """Return where the subject is in the picture, and what else is there."""
    sentences = []
    main, single = story.main, facts.single()
    if main.head in single and not main.several:
        place = place_if_certain(single[main.head])
        if place and rng.random() < 0.5:
            sentences.append(f"The {story.noun} is {at_place(place)} of the picture.")
    known = meant(told)
    others = [
        name
        for name in facts.present
        if name not in known
        and not taken_for(name, known)
        and not is_a(name, "person")
        and not _excluded(frozenset((name,)), told)
        and facts.counts.get(name)
    ]
    named = [
        with_article(name)
        if facts.counts[name] == 1
        else f"{NUMBERS[facts.counts[name]]} {plural(name)}"
        for name in shuffled(others, rng)[:_BESIDES]
    ]
    if named:
        sentences.append(f"One can also see {listed(named)}.")
    return sentences


def counted_things(facts: Facts) -> Facts:
    """Return facts with only those boxed things that can be counted and asked for.

    Places, clothes, parts of bodies and words that name no thing are boxed too, where boxes are
    named by phrases. People are boxed in groups: their number is for captions to tell.
    """
    things = tuple(thing for thing in facts.things if _is_thing(thing.category))
    names = {thing.category for thing in things}
    certain = {
        name: number
        for name, number in facts.counts.items()
        if name in names and not (number == 1 and facts.agreed.get(name))
    }
    mentioned = frozenset(filter(_is_thing, facts.mentioned))
    return facts._replace(things=things, counts=certain, mentioned=mentioned)


def _is_thing(name: str) -> bool:
    if kind_of(name) != name or name in MASS | PLURAL_ONLY or is_plural(name):
        return False
    unfit = ("clothing", "body part", "place", "body of water", "building", "crowd")
    gathered = ("group", "crowd", "team", "family", "couple", "band", "audience", "police", "crew")
    return (
        name not in gathered
        and name not in NOT_SEEN
        and not any(is_a(name, broad) for broad in unfit)
    )
