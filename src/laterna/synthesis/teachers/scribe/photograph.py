"""Composes questions about a photograph from its captions' story, its boxes and its dataset.

Asked is only what the story makes certain: what goes on, who wears what, which colour, where, what
is held, how many. Said to be absent is what is likely there, for it stands beside such things in
other photographs, and what neither boxes nor captions nor a wider word name.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import numpy as np

from laterna.scenes.facts import Facts
from laterna.scenes.kinds import is_a, meant, taken_for
from laterna.scenes.sampling import pick, shuffled
from laterna.scenes.survey import Survey
from laterna.scenes.vocabulary import SUPERCATEGORY_OF, words_of
from laterna.synthesis.parsing import Exchange
from laterna.synthesis.teachers.scribe.story import Story, colours_in
from laterna.synthesis.teachers.scribe.telling import (
    DETERMINERS,
    Telling,
    as_sentence,
    is_noun,
    is_plural,
    phrases_of,
    root,
)
from laterna.synthesis.teachers.scribe.wordings import QUESTIONS, WORDINGS, Inference

LIKELY = 6
"""Absent things that a photograph's questions are drawn from."""
_SEEN_OFTEN = 10
"""What fewer photographs have is not asked for: it would teach nothing but its absence."""
_ANYWHERE = 0.05
"""What one photograph that has it adds to how likely a thing is; one that has it beside such
things as are here adds 1."""
_HELD = frozenset(
    "hold carry ride throw catch chase pull push kick bite eat read pet drive".split()
)
_STAYS = frozenset("in on at near beside inside outside under behind".split())
_NO_PLACE = frozenset("background foreground center corner edge side front".split())
"""They tell where in the picture another thing is."""
_PASSES = frozenset("through across along down up over into toward towards".split())


class Told(NamedTuple):
    """An exchange that a story holds: what it asks for, its short answer and its whole one."""

    about: tuple[str, ...]
    """The kinds of things that question and answer name."""
    question: str
    short: str
    whole: str


def told_exchanges(story: Story, rng: np.random.Generator) -> dict[str, list[Told]]:
    """Return what the story answers, by kind of question."""
    return {
        "doing": _doing(story, rng),
        "wearing": _wearing(story, rng),
        "colour": _colours(story, rng),
        "where": _where(story, rng),
        "held": _held(story, rng),
        "number": _number(story, rng),
    }


def _told(
    kind: str,
    short: tuple[str, ...],
    whole: tuple[str, ...],
    rng: np.random.Generator,
    **words: str,
) -> Told:
    question = pick(QUESTIONS[f"told_{kind}"], rng).format(**words)
    about = tuple(dict.fromkeys(root(word) for word in (*whole, *short) if is_noun(word)))
    return Told(about, question, " ".join(short), as_sentence(whole))


def _be(telling: Telling) -> str:
    return "are" if telling.several else "is"


def _named(story: Story) -> tuple[str, ...]:
    """Return the subject as questions call it."""
    return ("the", *story.noun.split())


def _doing(story: Story, rng: np.random.Generator) -> list[Told]:
    found = []
    for telling in story.tellings:
        if telling.verb in ("be", "wear") or not telling.head or telling.more:
            continue
        who = " ".join(_named(story))
        answer = (*_named(story), _be(telling), *telling.doing)
        found.append(_told("doing", telling.doing, answer, rng, who=who, is_are=_be(telling)))
    return shuffled(found, rng)[:1]


def _wearing(story: Story, rng: np.random.Generator) -> list[Told]:
    clothes = story.clothes()
    main = story.main
    if not clothes or main.several:
        return []
    answer = (*_named(story), "is", "wearing", *clothes)
    return [_told("wearing", clothes, answer, rng, who=" ".join(_named(story)))]


def _colours(story: Story, rng: np.random.Generator) -> list[Told]:
    given: dict[str, set[frozenset[str]]] = {}
    words: dict[str, Counter[str]] = {}
    for telling in story.tellings:
        for kind, colours in colours_in(telling.words).items():
            given.setdefault(kind, set()).add(colours)
        for word in telling.words:
            words.setdefault(root(word), Counter())[word] += 1
    found = []
    for kind, told in given.items():
        forms = words[kind]
        several = any(is_plural(word) for word in forms)
        unsure = len(told) > 1 or len(next(iter(told))) > 1 or len(forms) > 1
        if unsure or is_a(kind, "person") or "another" in words or "other" in words:
            continue
        if max(sum(word in t.words for t in story.tellings) for word in forms) < max(
            t.words.count(word) for t in story.tellings for word in forms
        ):
            continue
        (colour,) = next(iter(told))
        (noun,) = forms
        is_are = "are" if several else "is"
        answer = ("the", noun, is_are, colour)
        found.append(_told("colour", (colour,), answer, rng, thing=noun, is_are=is_are))
    return shuffled(found, rng)


def _where(story: Story, rng: np.random.Generator) -> list[Told]:
    found = []
    for telling in story.tellings:
        last = list(phrases_of(telling.doing))[-1]
        if telling.more or not telling.head or len(last) < 2 or last == telling.doing:
            continue
        noun = last[-1]
        place = is_noun(noun) and any(is_a(root(noun), one) for one in ("place", "body of water"))
        if noun in _NO_PLACE:
            continue
        if not place or "and" in last or last[0] not in _STAYS | _PASSES:
            continue
        passes = last[0] in _PASSES
        if passes and telling.verb in ("be", "wear", "look", "jump", "throw", "hold", "carry"):
            continue
        verb = (telling.doing[0],) if passes else ()
        answer = (*_named(story), _be(telling), *verb, *last)
        kind = "passing" if passes else "where"
        words = {"who": " ".join(_named(story)), "is_are": _be(telling), "verb": " ".join(verb)}
        found.append(_told(kind, last, answer, rng, **words))
    return shuffled(found, rng)[:1]


def _held(story: Story, rng: np.random.Generator) -> list[Told]:
    found = []
    for telling in story.tellings:
        first = next(iter(phrases_of(telling.doing)))
        thing = first[1:]
        if telling.verb not in _HELD or not thing or not telling.head:
            continue
        whole = thing[0] in DETERMINERS - {"his", "her", "their", "its", "the"}
        single = not {"and", "while"} & set(thing) and is_noun(thing[-1])
        if not whole or not single or is_a(root(thing[-1]), "person"):
            continue
        answer = (*_named(story), _be(telling), telling.doing[0], *thing)
        words = {"who": " ".join(_named(story)), "is_are": _be(telling)}
        found.append(_told("held", thing, answer, rng, verb=telling.doing[0], **words))
    return shuffled(found, rng)[:1]


def _number(story: Story, rng: np.random.Generator) -> list[Told]:
    """Ask how many there are where at least two captions agree, and none tells otherwise."""
    numbers = [telling.number for telling in story.tellings]
    main = story.main
    agreed = main.several and len(numbers) > 1 and len(set(numbers)) == 1 and numbers[0]
    if not agreed or not main.head:
        return []
    things = main.noun
    answer = ("there", "are", main.number, things)
    return [_told("number", (main.number,), answer, rng, things=things)]


def likely_absent(facts: Facts, survey: Survey, rng: np.random.Generator) -> tuple[str, ...]:
    """Return up to `LIKELY` absent things, those drawn first that often stand beside what is there.

    `facts` are of all boxes. What is easily taken for something that is there is left out.
    """
    held = {thing.category for thing in facts.things} | facts.mentioned
    held |= {root(word) for caption in facts.captions for word in words_of(caption)}
    there = meant(held)
    weights: dict[str, float] = {}
    for name in facts.absent:
        often = survey.images.get(name, 0)
        beside = sum(survey.together.get(category, {}).get(name, 0) for category in held)
        if often >= _SEEN_OFTEN and not taken_for(name, there):
            weights[name] = beside + _ANYWHERE * often
    chosen: list[str] = []
    while weights and len(chosen) < LIKELY:
        names = list(weights)
        share = np.array([weights[name] for name in names])
        name = names[int(rng.choice(len(names), p=share / share.sum()))]
        chosen.append(name)
        one = meant((name,))
        weights = {
            other: weight
            for other, weight in weights.items()
            if other != name and not is_a(other, name) and not taken_for(other, one)
        }
    return tuple(chosen)


def inferred(story: Story, rng: np.random.Generator) -> list[Exchange]:
    """Return questions that take a step beyond the story, no reason given twice."""
    found: dict[str, Exchange] = {}
    used: set[Inference] = set()
    for telling in shuffled(story.tellings, rng):
        if telling.more or telling.verb in ("be", "wear"):
            continue
        roots = {root(word) for word in telling.doing}
        who = _named(story) if telling.head else ("they",)
        because = " ".join((*who, _be(telling), *telling.doing))
        for inference in shuffled(WORDINGS.inferences, rng):
            cue = telling.verb in inference.verbs.split() or roots & set(inference.cues.split("|"))
            kinds = inference.of.split("|") if inference.of else ()
            fits = not kinds or any(is_a(telling.head, kind) for kind in kinds)
            if cue and fits and inference not in used and because not in found:
                question, answer = pick(inference.exchanges, rng)
                found[because] = Exchange(question, answer.format(because=because))
                used.add(inference)
    return list(found.values())


def group_of(category: str) -> str:
    """Return the supercategory, as COCO calls it, of any category whose kind is known."""
    return SUPERCATEGORY_OF.get(category) or next(
        (group for group in ("person", "animal", "vehicle", "food", "furniture")
         if is_a(category, group)), ""
    )  # fmt: skip
