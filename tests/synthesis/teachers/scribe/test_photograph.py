"""What scribe makes of photographs' captions, by value."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from laterna.records import Box, Kind, Message
from laterna.scenes.survey import Survey, misspelt
from laterna.synthesis.parsing import parse_reply
from laterna.synthesis.proxy import write_proxy
from laterna.synthesis.teachers.scribe import Scribe
from laterna.synthesis.teachers.scribe.story import contradict, read_story
from laterna.synthesis.teachers.scribe.telling import Telling, ing, read_telling, third_person

pytestmark = pytest.mark.unit
CAPTIONS = (
    "A little girl in a pink dress is climbing up a set of stairs .",
    "A girl going into a wooden building .",
    "Child climbing stairs to her playhouse .",
)
BOXES = (
    Box(category="girl", x1=0.05, y1=0.4, x2=0.25, y2=0.6),
    Box(category="bench", x1=0.7, y1=0.7, x2=0.9, y2=0.9),
)
SURVEY = Survey(
    categories=("bench", "boat", "dog", "girl", "others", "woman"),
    images={"bench": 20, "boat": 20, "dog": 20, "girl": 20, "woman": 20},
    together={"bench": {"dog": 9}, "girl": {"dog": 9, "woman": 9}},
)


def told(caption: str) -> Telling:
    found = read_telling(caption, frozenset())
    assert found is not None, caption
    return found


@pytest.mark.parametrize(
    ("caption", "sentence"),
    [
        ("Two dogs run through the grass .", "Two dogs are running through the grass."),
        ("Man standing on a rock .", "A man is standing on a rock."),
        ("A man wearing a hat riding a horse .", "A man wearing a hat is riding a horse."),
        ("There is a dog in the snow .", None),
        ("A dog runs and jumps over a log .", "A dog is running and jumping over a log."),
        ("A boy lays on the grass .", "A boy is lying on the grass."),
        ("A man and a woman are sitting on a bench .", "A man and a woman are sitting on a bench."),
        ("A unicyclist holds an umbrella .", None),
    ],
)
def test_captions_become_sentences(caption: str, sentence: str | None) -> None:
    found = read_telling(caption, frozenset())
    assert (found.sentence if found else None) == sentence


@pytest.mark.parametrize(
    "caption",
    [
        "A two dogs are running .",
        "The little kids is jumping off a ledge .",
        "A man standing on rock with a dog .",
        "A orange cat is sleeping .",
        "A man with tattoos on his head a face is standing .",
        "I see a dog running in the snow .",
        "A dog is running in the .",
        "A boy wearing an orange coat winkles at the camera .",
        "Two dogs are running down a with path .",
        "A woman wearing white reaches high above herself .",
        "A woman is smiling at person in a car .",
        "A man on a bike and another man with a dog are crossing a street .",
        "A dog splashing running across water .",
        "A player just taking a swing at a ball .",
    ],
)
def test_faults_of_grammar_are_passed_over(caption: str) -> None:
    assert read_telling(caption, frozenset()) is None


def test_likely_slips_are_passed_over() -> None:
    counts = {
        "throws": 50,
        "trows": 1,
        "walked": 40,
        "walker": 1,
        "beach": 90,
        "reach": 1,
        "int": 1,
    }
    assert misspelt(counts) == {"trows", "int"}
    assert read_telling("A boy trows the ball .", frozenset(("trows",))) is None


def test_forms_of_verbs() -> None:
    assert [ing(verb) for verb in ("run", "race", "lie", "look", "see")] == [
        "running", "racing", "lying", "looking", "seeing",
    ]  # fmt: skip
    assert [third_person(verb) for verb in ("catch", "carry", "go")] == [
        "catches",
        "carries",
        "goes",
    ]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("A man is running on a track .", "A woman is running on a track ."),
        ("Two dogs are playing .", "Three dogs are playing in the snow ."),
        ("A black dog is running fast .", "A brown dog is running fast ."),
        ("A boy is sitting on a wall .", "A boy is running on a wall ."),
        ("A boy is swimming in a pool .", "A boy is swimming in the ocean ."),
    ],
)
def test_captions_that_cannot_both_be_true(one: str, other: str) -> None:
    assert contradict(told(one), told(other))
    assert not contradict(told(one), told(one))


def test_the_caption_that_most_go_with_is_told() -> None:
    captions = ("A dog is running .", "A dog is running in snow .", "Two cats are sitting there .")
    for seed in range(20):
        story = read_story(captions, frozenset(), np.random.default_rng(seed))
        assert story is not None
        assert [telling.noun for telling in story.tellings] == ["dog", "dog"]


def reply(kind: Kind, seed: int) -> str:
    text = write_proxy(CAPTIONS, BOXES)
    scribe = Scribe(kind, SURVEY, seed)
    return asyncio.run(scribe.complete([Message(role="user", content=text)])).text


def test_details_are_what_captions_say_together() -> None:
    said = {reply("detail", seed) for seed in range(20)}
    opening = "A little girl in a pink dress is climbing up a set of stairs."
    assert all(text.startswith(opening) for text in said)
    assert all(text.endswith("One can also see a bench.") for text in said)
    assert any("She is going into a wooden building." in text for text in said)


def test_what_captions_tell_is_asked_for() -> None:
    asked = [one for seed in range(40) for one in parse_reply(reply("conversation", seed))]
    answers = {answer for question, answer in asked if "wearing" in question}
    assert answers == {"a pink dress", "The girl is wearing a pink dress."}
    assert ("What colour is the dress? Answer briefly.", "pink") in asked
    denied = {question for question, answer in asked if answer.lower().startswith("no")}
    assert any("dog" in question for question in denied)
    assert not any("woman" in question for question in denied), "a girl may be called one"


def test_reasons_call_several_several() -> None:
    captions = ("Two dogs are standing in a yard .", "Dogs are standing in a yard .")
    dogs = tuple(Box(category="dog", x1=x, y1=0.1, x2=x + 0.2, y2=0.3) for x in (0.1, 0.6))
    text = write_proxy(captions, dogs)
    message = [Message(role="user", content=text)]
    scribes = [Scribe("reasoning", SURVEY, seed) for seed in range(20)]
    said = [asyncio.run(scribe.complete(message)).text for scribe in scribes]
    assert any("Dogs, because animals have to eat and drink." in text for text in said)
    assert not any("A dog, because" in text for text in said)
