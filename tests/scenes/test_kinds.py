"""What is a kind of what, by value."""

from __future__ import annotations

import pytest

from laterna.records import Box
from laterna.scenes.facts import gather_facts
from laterna.scenes.kinds import (
    absent_of,
    deniable,
    hypernyms,
    is_a,
    kind_of,
    meant,
    taken_for,
    unmapped,
)
from laterna.scenes.vocabulary import CATEGORIES, ObjectWords, plural

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("phrase", "kind"),
    [
        ("A little girl", "girl"),
        ("two dogs of different breeds", "dog"),
        ("a set of trees", "tree"),
        ("a group of policemen", "policeman"),
        ("geese", "goose"),
        ("a soccer ball", "soccer ball"),
        ("others", None),
        ("her handstand", None),
    ],
)
def test_a_phrase_is_of_the_kind_that_its_head_names(phrase: str, kind: str | None) -> None:
    assert kind_of(phrase) == kind


def test_kinds_have_wider_kinds() -> None:
    assert hypernyms("terrier") == {"dog", "animal"}
    assert hypernyms("girl") == {"child", "person"}
    assert is_a("kitten", "animal")
    assert not is_a("animal", "kitten")
    assert unmapped(("girl", "others", "handstand")) == ("handstand", "others")


def test_nothing_is_absent_that_a_wider_or_narrower_word_names() -> None:
    assert absent_of(("dog", "cat", "animal"), ("terrier",)) == ("cat",)
    assert absent_of(("dog", "cat", "car"), ("animals",)) == ("car",)
    words = ObjectWords(CATEGORIES)
    tree = (Box(category="bench", x1=0, y1=0, x2=0.5, y2=1),)
    found = gather_facts(("An animal on a bench.",), tree, words, ("bench", "bus", "dog"))
    assert found.absent == ("bus",)


def test_of_heads_of_phrases_only_what_people_name_is_deniable() -> None:
    closed = ("bus", "dog", "gadget", "shirt")
    assert deniable(closed) == closed
    assert deniable((*closed, "others", "snow", "girl")) == ("bus", "dog")


def test_what_is_taken_for_another() -> None:
    assert taken_for("canoe", meant(("kayak",)))
    assert taken_for("woman", meant(("girl",)))
    assert not taken_for("horse", meant(("girl", "kayak")))


@pytest.mark.parametrize(
    ("noun", "several"),
    [("fireman", "firemen"), ("human", "humans"), ("foot", "feet"), ("scarf", "scarves")],
)
def test_plurals_that_no_rule_gives(noun: str, several: str) -> None:
    assert plural(noun) == several
