"""Composes conversations: short questions with certain answers about what is there.

Where there are no boxes, captions alone settle what kind of thing is there, and no more. Nothing
is counted, placed or denied then: captions leave out most of what an image holds. Nothing is
asked by yes or no either: where no answer can be no, yes would be learned for every question.
Captions also err, so only what most of them name is spoken of.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from laterna.scenes.facts import Facts, Thing, place_if_certain, places_near
from laterna.scenes.geometry import lie_apart, relation_holds
from laterna.scenes.phrases import NUMBERS, SHORT_ANSWER, at_place, listed, with_article
from laterna.scenes.sampling import pick, shuffled
from laterna.scenes.vocabulary import SUPERCATEGORY_OF, plural, words_of
from laterna.synthesis.parsing import Exchange
from laterna.synthesis.teachers.scribe.photograph import Told, told_exchanges
from laterna.synthesis.teachers.scribe.story import Story, content
from laterna.synthesis.teachers.scribe.wordings import QUESTIONS, WORDINGS

TURNS = 6
"""Exchanges of a conversation at most."""
SHORT_SHARE = 0.75
"""Share of the questions that ask for the bare answer."""
CAPTIONED_EXCHANGES, CAPTIONED_SHORT_SHARE = 3, 0.5
"""The same of what captions alone settle."""
FRESH_FIRST = 0.6
"""Share of the conversations that begin with what may not be asked later."""
SEVERAL_FIRST = 0.8
"""Share of the conversations that begin by counting where there are several of a kind: elsewhere
one is always right, and what was spoken of cannot be counted any more."""
AXES = (("to the left of", "to the right of"), ("above", "below"))
"""Relations across, and up and down."""


class _Candidate(NamedTuple):
    """An exchange that could be part of the conversation."""

    about: tuple[str, ...]
    """Categories that the question names, or that its answer names."""
    exchange: Exchange
    fresh: bool = False
    """The answer is given away once its category was spoken of: asked before that or not at all."""
    closes: bool = False
    """The answer names the category, so that nothing else may speak of it."""
    given: str = ""
    """The short answer, which may not have been said before."""
    exists: bool | None = None
    """The answer to whether something is there; None where that is not the question."""


_Writer = Callable[[Facts, np.random.Generator], list[_Candidate]]


def compose_conversation(
    facts: Facts, rng: np.random.Generator, story: Story | None = None
) -> list[Exchange]:
    """Return up to `TURNS` exchanges, the kinds of question taking turns in random order.

    What one exchange says does not answer a later one, or the conversation could be held without
    the image; and as many things are said to be there as not to be, give or take one. Without
    boxes it is the conversation that captions alone settle. A `story` is asked for beside.
    """
    if not facts.things and not story:
        return _captioned(facts, rng)
    writers = [*_told_writers(story, rng), *_WRITERS_BESIDE] if story else [*_WRITERS]
    queues = [writer(facts, rng) for writer in writers]
    chosen: list[_Candidate] = []
    spoken_of: set[str] = set()
    closed: set[str] = set()
    while any(queues) and len(chosen) < TURNS:
        for number in _order(writers, facts, rng, first=not chosen):
            if not queues[number]:
                continue
            candidate = queues[number].pop()
            about = set(candidate.about)
            if about & closed or (candidate.fresh and about & spoken_of):
                continue
            said = (word for one in chosen for part in one.exchange for word in words_of(part))
            if candidate.given and content(candidate.given.split()) <= content(said):
                continue
            spoken_of |= about
            closed |= about if candidate.closes else set()
            chosen.append(candidate)
    exchanges = [candidate.exchange for candidate in _balanced(chosen, rng)[:TURNS]]
    return exchanges or ([] if facts.things else _captioned(facts, rng))


def possible_exchanges(facts: Facts, rng: np.random.Generator) -> list[Exchange]:
    """Return every exchange that a conversation could hold, one answering another or not."""
    return [candidate.exchange for write in _WRITERS for candidate in write(facts, rng)]


def _order(
    writers: Sequence[_Writer], facts: Facts, rng: np.random.Generator, *, first: bool
) -> list[int]:
    """Return the order of the writers; at first, often those whose questions spoil soon."""
    numbers = shuffled(range(len(writers)), rng)
    if not first:
        return numbers
    if rng.random() < FRESH_FIRST:
        numbers.sort(key=lambda number: writers[number] not in _FRESH)
    if max(facts.counts.values(), default=0) > 1 and rng.random() < SEVERAL_FIRST:
        numbers.sort(key=lambda number: writers[number] is not _count)
    return numbers


def _told_writers(story: Story, rng: np.random.Generator) -> list[_Writer]:
    """Return a writer for each kind of question that a story answers."""

    def writer(exchanges: list[Told]) -> _Writer:
        def write(_: Facts, rng: np.random.Generator) -> list[_Candidate]:
            return [
                _Candidate(
                    told.about,
                    _exchange(told.question, told.short, told.whole, rng),
                    given=told.short,
                )
                for told in exchanges
            ]

        return write

    return [writer(exchanges) for exchanges in told_exchanges(story, rng).values()]


def _balanced(chosen: list[_Candidate], rng: np.random.Generator) -> list[_Candidate]:
    """Keep as many denials as there is said to be things, or one more, each beside such a turn.

    Before it or behind it by chance, or the place in the conversation would tell yes from no. A
    denial speaks of nothing else in the conversation, so it may stand anywhere.
    """
    denials = [candidate for candidate in chosen if candidate.exists is False]
    more = rng.random() < 0.08
    kept: list[_Candidate] = []
    for candidate in chosen:
        if candidate.exists is False:
            continue
        beside = [denials.pop()] if candidate.exists and denials else []
        before = rng.random() < 0.5
        kept += [*beside, candidate] if before else [candidate, *beside]
    if more and denials:
        kept.insert(int(rng.integers(len(kept) + 1)), denials.pop())
    return kept


def _existence(facts: Facts, rng: np.random.Generator) -> list[_Candidate]:
    candidates = []
    present = shuffled(facts.present, rng)
    absent = shuffled(facts.absent, rng)
    for yes, no in zip(present[:2], absent[:2], strict=False):
        asked = _ask("existence", rng, a_thing=with_article(yes))
        told = f"Yes, there is {with_article(yes)}."
        candidates.append(
            _Candidate((yes,), _exchange(asked, "yes", told, rng), fresh=True, exists=True)
        )
        asked = _ask("existence", rng, a_thing=with_article(no))
        told = "No, there is none in the picture."
        candidates.append(_Candidate((no,), _exchange(asked, "no", told, rng), exists=False))
    return shuffled(candidates, rng)


def _count(facts: Facts, rng: np.random.Generator) -> list[_Candidate]:
    candidates = []
    counted = shuffled(tuple(facts.counts.items()), rng)
    counted.sort(key=lambda item: item[1])  # the last are taken first: one of a kind is common
    for category, number in counted:
        asked = _ask("count", rng, things=plural(category))
        several = f"There are {NUMBERS[number]} {plural(category)}."
        told = f"There is one {category}." if number == 1 else several
        exchange = _exchange(asked, NUMBERS[number], told, rng)
        candidates.append(_Candidate((category,), exchange, fresh=True))
    return candidates


def _quality(
    name: str, answer_of: Callable[[Facts, str, Thing], str | None], phrase: Callable[[str], str]
) -> _Writer:
    """Return the writer of questions for what there is one of, answered with one word."""

    def write(facts: Facts, rng: np.random.Generator) -> list[_Candidate]:
        candidates = []
        for category, thing in shuffled(tuple(facts.single().items()), rng):
            answer = answer_of(facts, category, thing)
            if answer:
                asked = _ask(name, rng, thing=category)
                told = f"The {category} is {phrase(answer)}."
                candidates.append(_Candidate((category,), _exchange(asked, answer, told, rng)))
        return candidates

    return write


_colour = _quality("colour", lambda facts, category, _: facts.colour_of(category), str)
_in_picture = _quality("place_in_picture", lambda _, __, thing: place_if_certain(thing), at_place)
_place = _quality("place", lambda _, __, thing: place_if_certain(thing), at_place)


def _kind(facts: Facts, rng: np.random.Generator) -> list[_Candidate]:
    candidates = []
    for thing in facts.things:
        place = place_if_certain(thing)
        others = (other for other in facts.things if other is not thing)
        if place and not any(place in places_near(other) for other in others):
            asked = _ask("kind_at_place", rng, place=at_place(place))
            told = f"There is {with_article(thing.category)} {at_place(place)}."
            candidates.append(_naming(thing.category, asked, told, rng))
    for colour, category in _owners_of_colours(facts).items():
        asked = _ask("kind_of_colour", rng, colour=colour)
        told = f"The {colour} object is {with_article(category)}."
        candidates.append(_naming(category, asked, told, rng))
    return shuffled(candidates, rng)


def _naming(category: str, asked: str, told: str, rng: np.random.Generator) -> _Candidate:
    exchange = _exchange(asked, category, told, rng)
    return _Candidate((category,), exchange, fresh=True, closes=True)


def _owners_of_colours(facts: Facts) -> dict[str, str]:
    """Return each colour that surely only one thing has, with that thing's category."""
    boxed = sorted({thing.category for thing in facts.things})
    if any(category not in facts.colours for category in boxed):
        return {}
    owners: dict[str, list[str]] = {}
    for category in boxed:
        for colour in sorted(facts.colours[category]):
            owners.setdefault(colour, []).append(category)
    alone = facts.single()
    return {
        colour: categories[0]
        for colour, categories in owners.items()
        if len(categories) == 1 and categories[0] in alone
    }


def _relation(facts: Facts, rng: np.random.Generator) -> list[_Candidate]:
    """Ask about pairs of things, of each once how they stand across and once up and down."""
    return _related(facts, rng, AXES)


def _side(facts: Facts, rng: np.random.Generator) -> list[_Candidate]:
    """Ask how pairs of things stand across: in a photograph, what is higher is often behind."""
    return _related(facts, rng, AXES[:1])


def _related(
    facts: Facts, rng: np.random.Generator, axes: tuple[tuple[str, str], ...]
) -> list[_Candidate]:
    candidates = []
    single = shuffled(tuple(facts.single().items()), rng)
    for (name, thing), (other_name, other) in pairwise(single):
        for relations in axes:
            relation = relations[int(rng.integers(2))]
            holds = relation_holds(relation, thing.box, other.box)
            if holds is None or not lie_apart(thing.box, other.box):
                continue
            asked = _ask("relation", rng, thing=name, relation=relation, other=other_name)
            sentence = f"the {name} is {'' if holds else 'not '}{relation} the {other_name}."
            answer = "Yes" if holds else "No"
            exchange = _exchange(asked, answer.lower(), f"{answer}, {sentence}", rng)
            candidates.append(_Candidate((name, other_name), exchange))
    return shuffled(candidates, rng)


def _captioned(facts: Facts, rng: np.random.Generator) -> list[Exchange]:
    """Return questions about kinds, or one about all where none can be asked."""
    groups: dict[str, list[str]] = {}
    for category in facts.present:
        groups.setdefault(SUPERCATEGORY_OF.get(category, ""), []).append(category)
    alone = [
        (WORDINGS.nouns[group], members[0])
        for group, members in groups.items()
        # Of two kinds, either would be the answer.
        if group in WORDINGS.nouns and len(members) == 1 and members[0] in facts.agreed
    ]
    exchanges = []
    for noun, category in shuffled(alone, rng)[:CAPTIONED_EXCHANGES]:
        asked = _ask("kind", rng, noun=noun)
        told = f"The picture shows {_named(category, facts)}."
        exchanges.append(_exchange(asked, category, told, rng, CAPTIONED_SHORT_SHARE))
    if exchanges:
        return exchanges
    asked = _ask("all", rng)
    named = [_named(category, facts) for category in facts.present if category in facts.agreed]
    return [Exchange(asked, f"One can see {listed(named)}.")] if named else []


def _named(category: str, facts: Facts) -> str:
    return plural(category) if facts.agreed[category] else with_article(category)


_WRITERS = (_existence, _count, _colour, _place, _kind, _relation)
_WRITERS_BESIDE = (_existence, _in_picture, _side)
"""What boxes settle of a photograph beside its story; its captions tell colours and numbers."""
_FRESH = (_existence, _count, _kind)


def _ask(name: str, rng: np.random.Generator, **words: str) -> str:
    return pick(QUESTIONS[name], rng).format(**words)


def _exchange(
    question: str, short: str, told: str, rng: np.random.Generator, share: float = SHORT_SHARE
) -> Exchange:
    if rng.random() < share:
        return Exchange(question + SHORT_ANSWER, short)
    return Exchange(question, told)
