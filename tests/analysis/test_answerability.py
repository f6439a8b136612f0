"""Whether a proxy held what an answer tells: one rule a property, each by value."""

from __future__ import annotations

import pytest

from laterna.analysis.answerability import is_answerable, make_pair, read_evidence
from laterna.analysis.properties import Property
from laterna.records import Proxy

CAPTIONS = (
    "A black and white cat sleeps on a red wooden chair.",
    "Two cups stand next to the cat under a traffic light.",
)
BOXES = (
    "cat: [0.1, 0.2, 0.5, 0.6]",
    "chair: [0.1, 0.4, 0.5, 0.9]",
    "cup: [0.6, 0.4, 0.7, 0.5]",
    "cup: [0.8, 0.4, 0.9, 0.5]",
)


def proxy(*more: tuple[str, str], boxes: bool = False) -> Proxy:
    """The captions, the boxes where asked for, and lines of other channels."""
    lines = [("caption", caption) for caption in CAPTIONS]
    if boxes or more:
        lines.append(("", ""))
    lines += [("box", box) for box in BOXES if boxes]
    lines += more
    return Proxy(
        text="\n".join(text for _, text in lines), channels=tuple(name for name, _ in lines)
    )


def held(shown: Proxy, about: Property, question: str, answer: str = "Yes.") -> bool | None:
    return is_answerable(read_evidence(shown), make_pair(question, answer), about)


@pytest.mark.parametrize(
    ("about", "question", "answer", "by_captions", "by_boxes"),
    [
        ("existence", "Is there a cat?", "Yes.", True, True),
        ("existence", "Is there a dog?", "No, there is no dog.", False, True),
        ("existence", "Is there a dog?", "Yes.", False, False),
        ("existence", "Is there a unicorn?", "No.", False, False),
        ("existence", "What animal is it?", "A cat.", True, True),
        ("existence", "What animal is it?", "A husky.", False, False),
        ("existence", "What is here?", "A cup, since such things hold warm drinks.", True, True),
        ("count", "How many cups are there?", "Two.", True, True),
        ("count", "How many chairs are there?", "One.", False, True),
        ("count", "How many dogs are there?", "None.", False, False),
        ("colour", "What colour is the cat?", "Black.", True, True),
        ("colour", "What colour is the chair?", "Red.", True, True),
        ("colour", "What colour are the cups?", "Blue.", False, False),
        ("place", "Where is the cat?", "On a chair.", True, True),
        ("place", "Where is the chair?", "On the left.", False, True),
        ("place", "Where is the dog?", "Outside.", False, False),
        ("relation", "What is next to the cat?", "A cup.", True, True),
        ("relation", "Is the dog left of the man?", "Yes.", False, False),
        ("action", "What is the cat doing?", "It sleeps.", True, True),
        ("action", "What is the man doing?", "He waits.", False, False),
        ("text", "What does the sign say?", "It says stop.", False, False),
        ("texture", "What is the chair made of?", "Wood.", True, True),
        ("texture", "What are the cups made of?", "Clay.", False, False),
        ("lighting", "Is it bright?", "Yes.", False, False),
        ("emotion", "Is the cat happy?", "Yes.", False, False),
        ("background", "Why does it sleep?", "It is tired.", None, None),
        ("description", "Describe the image.", "A cat.", None, None),
        ("other", "Is it broken?", "No.", None, None),
    ],
)
def test_captions_and_boxes(
    about: Property,
    question: str,
    answer: str,
    by_captions: bool | None,
    by_boxes: bool | None,
) -> None:
    assert held(proxy(), about, question, answer) is by_captions
    assert held(proxy(boxes=True), about, question, answer) is by_boxes


@pytest.mark.parametrize(
    "answer",
    [
        "I don't see a dog.",
        "I don’t see a dog.",
        "I can't find one.",
        "I cannot see any.",
        "There isn't any dog.",
        "There aren't any.",
        "There is none.",
        "There is not one.",
        "It isn't there.",
        "It is not visible here.",
        "It cannot be seen in the picture.",
        "They're not in the picture.",
        "No dog can be seen.",
        "A dog cannot be seen here.",
        "The dog is nowhere to be seen.",
        "The picture does not contain a dog.",
        "The picture shows a cat but not a dog.",
        "Neither a dog nor a man is there.",
        "None that I can see.",
        "Nope.",
        "There are zero dogs.",
    ],
)
def test_denials_are_recognized_in_other_words(answer: str) -> None:
    assert held(proxy(boxes=True), "existence", "Is there a dog?", answer) is True
    assert held(proxy(), "existence", "Is there a dog?", answer) is False, "captions leave out"


@pytest.mark.parametrize(
    "answer",
    [
        "Yes, the dog isn't moving.",
        "Yes, it isn't wearing a collar.",
        "The dog is there, a man is not.",
        "There is a dog that can't reach the cup.",
        "A dog, not a wolf.",
        "Yes, and not only one.",
        "Yes, it is not asleep.",
        "There is a dog without a leash.",
        "It is missing a leg.",
        "It does. There's no man beside it.",
    ],
)
def test_what_denies_something_else_is_no_denial(answer: str) -> None:
    assert held(proxy(boxes=True), "existence", "Is there a dog?", answer) is False


@pytest.mark.parametrize(
    ("about", "question", "answer", "by_boxes"),
    [
        ("colour", "What colour is the dog?", "There is no dog in the picture.", True),
        ("place", "Where exactly is the dog?", "I can see no dog here.", True),
        ("relation", "What stands right beside the dog?", "The picture shows no dog.", True),
        ("existence", "Who put the dog there?", "No dog can be seen in the picture.", True),
        ("colour", "What colour is the cat?", "There is no cat in the picture.", True),
        ("place", "Where is the dog?", "There is no dog, but a man is there.", True),
        ("place", "Where is the dog?", "There is no man beside it.", False),
        ("texture", "What is the cup made of?", "There is no cup in the picture.", False),
        ("colour", "What colour is the unicorn?", "There is no unicorn.", False),
    ],
)
def test_that_it_is_not_there_answers_any_question(
    about: Property, question: str, answer: str, by_boxes: bool
) -> None:
    assert held(proxy(boxes=True), about, question, answer) is by_boxes


def test_an_order_about_the_answers_form_asks_about_nothing() -> None:
    boxed = proxy(boxes=True)
    assert held(boxed, "existence", "Is there a dog? Answer briefly.", "no") is True
    assert held(boxed, "place", "What is at the top right? Answer briefly.", "cup") is True
    asked = "Is there a dog? Answer the question using a single word or phrase."
    assert held(boxed, "existence", asked, "No") is True


def test_enrichments_close_the_blind_spots_that_they_measure() -> None:
    sign = "What does the sign say?"
    assert held(proxy(("ocr", 'printed text: "STOP"')), "text", sign, "It says stop.") is True
    assert held(proxy(("lighting", "lighting: dim")), "lighting", "Is it bright?") is True
    line = ("texture", "cup texture: rough")
    assert held(proxy(line), "texture", "What is the texture of the cup?") is True
    assert held(proxy(line), "texture", "What is the texture of the ball?") is False
    main = ("colours", "main colours: blue, grey")
    assert held(proxy(main), "colour", "Which colours are in the image?") is True
    assert held(proxy(main), "colour", "What colour are the cups?") is False


def test_a_proxy_without_a_line_supports_nothing() -> None:
    nothing = Proxy(text="", channels=())
    assert held(nothing, "existence", "Is there a cat?") is False
    assert held(nothing, "place", "Where is it?", "Here.") is False


def test_a_box_of_a_compound_name_is_its_last_word() -> None:
    told = read_evidence(Proxy(text="\nrubber duck: [0.0, 0.0, 1.0, 1.0]", channels=("", "box")))
    assert told.boxes == ("bird",)
    assert told.categories == ("rubber duck",)
