"""Conversations from captions alone, by value: kinds are named, nothing is denied or counted."""

from __future__ import annotations

import numpy as np
import pytest

from laterna.records import Box, Reply, Scene
from laterna.scenes.facts import Facts, gather_facts
from laterna.scenes.phrases import SHORT_ANSWER
from laterna.scenes.vocabulary import CATEGORIES, ObjectWords
from laterna.synthesis.checks import check
from laterna.synthesis.parsing import Exchange, write_reply
from laterna.synthesis.teachers.scribe.conversation import compose_conversation

WORDS = ObjectWords(CATEGORIES)
KINDS = ("What kind of {} is in the picture?", "What kind of {} can be seen?",
         "Which kind of {} does the picture show?")  # fmt: skip


def facts(*captions: str) -> Facts:
    return gather_facts(captions, (), WORDS, CATEGORIES)


def said(found: Facts) -> dict[str, set[str]]:
    """Every question that sixty seeds bring up, with its answers."""
    answers: dict[str, set[str]] = {}
    for seed in range(60):
        for question, answer in compose_conversation(found, np.random.default_rng(seed)):
            answers.setdefault(question, set()).add(answer)
    return answers


def test_kinds_are_asked_for_and_named_as_the_captions_name_them() -> None:
    expected = {}
    for question in (kind.format("animal") for kind in KINDS):
        expected[question] = {"The picture shows dogs."}
        expected[question + SHORT_ANSWER] = {"dog"}
    for question in (kind.format("vehicle") for kind in KINDS):
        expected[question] = {"The picture shows a car."}
        expected[question + SHORT_ANSWER] = {"car"}
    assert said(facts("Two dogs before a car.", "Dogs near a man's car.")) == expected


@pytest.mark.parametrize(
    ("captions", "answer"),
    [
        (("A cat and a dog.",), "One can see a cat and a dog."),  # two kinds of animal
        (("A man on a bench.",), "One can see a bench and a person."),  # no noun for these
        (("Men on a bench.", "Two men on a bench."), "One can see a bench and people."),
    ],
)
def test_where_no_kind_can_be_asked_for_all_is_named(
    captions: tuple[str, ...], answer: str
) -> None:
    assert said(facts(*captions)) == {
        "What can be seen in the picture?": {answer},
        "What does the picture show?": {answer},
        "What is there to see?": {answer},
    }


def test_what_few_captions_name_is_not_spoken_of() -> None:
    zebras = ("Two zebras in a field.", "A pair of zebras.", "Two giraffes eat grass.")
    assert facts(*zebras).agreed == {"zebra": True}
    assert facts("A zebra.", "Grass.").agreed == {}
    assert facts("A boy in a baseball uniform.").agreed == {"person": False}, "no ball"
    assert compose_conversation(facts("A zebra.", "Grass."), np.random.default_rng(0)) == []


def test_most_of_those_that_name_it_tell_whether_there_are_several() -> None:
    assert facts("Two zebras.", "A couple of zebra.", "Zebras.").agreed == {"zebra": True}
    assert facts("Zebras.", "A zebra.").agreed == {"zebra": False}, "one is there in any case"


def test_the_checks_accept_them_whatever_the_boxes_hold() -> None:
    """Without boxes it denied what only the boxes held, and the checks rejected that."""
    kite = Box(category="kite", x1=0.1, y1=0.1, x2=0.2, y2=0.2)
    captions = ("A dog beside a car.", "The dog and a car.")
    scene = Scene(id="1", image="", width=None, height=None, captions=captions, boxes=(kite,))
    for seed in range(40):
        exchanges: list[Exchange] = compose_conversation(
            facts(*captions), np.random.default_rng(seed)
        )
        reply = Reply(text=write_reply(exchanges), finish_reason="stop")
        assert check(scene, reply, "conversation").findings == ()
