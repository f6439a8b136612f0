"""What is wrong with a reply as a whole: form, leaks, questions that give away, repetition."""

from __future__ import annotations

import re

import pytest

from laterna.errors import LaternaError
from laterna.records import Finding, Kind, Reply, Scene, Verdict
from laterna.synthesis.checks import REASONS, NearDuplicates, check, repair_message
from laterna.synthesis.parsing import Exchange, write_reply


def reasons(
    scene: Scene, text: str, kind: Kind = "detail", finish_reason: str = "stop"
) -> list[str]:
    verdict = check(scene, Reply(text=text, finish_reason=finish_reason), kind)
    assert {finding.reason for finding in verdict.findings} <= REASONS.keys()
    return [finding.reason for finding in verdict.findings]


def test_the_form_is_kept_strictly(street: Scene) -> None:
    good = write_reply([Exchange("What is shown?", "A dog.")])
    assert reasons(street, good, "conversation") == []
    assert reasons(street, "A dog.", "conversation") == ["unparsable"]
    assert reasons(street, good, "detail") == ["unparsable"]
    assert reasons(street, "  ", "detail") == ["no answer"]
    assert reasons(street, "Sorry, I cannot help.", "conversation") == ["no answer"]


def test_a_reply_that_was_cut_off(street: Scene) -> None:
    verdict = check(street, Reply(text="A dog and a", finish_reason="length"), "detail")
    told = "it met the limit of tokens"
    cut = Finding(reason="truncated", sentence="A dog and a", detail=told)
    assert verdict.findings == (cut,)
    assert reasons(street, "A dog.", finish_reason="content_filter") == ["not finished"]


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I cannot help with that.",
        "I’m unable to assist with this request.",
        "I apologize for the confusion.",
        "As an AI language model, I describe a dog.",
        "I cannot see the image.",
        "Your message is empty.",
        "No image was provided.",
        "Please provide more information.",
    ],
)
def test_an_apology_is_no_answer(street: Scene, text: str) -> None:
    assert reasons(street, text) == ["no answer"]
    refusal = write_reply([Exchange("What is the number?", text)])
    assert "no answer" not in reasons(street, refusal, "refusal")


@pytest.mark.parametrize(
    "text",
    [
        "According to the caption, a dog walks.",
        "The captions mention a dog.",
        "The bounding box of the dog is small.",
        "The dog is at [0.05, 0.6, 0.25, 0.9].",
        "Its coordinates tell that it is small.",
        "In the provided description a dog walks.",
        "The dog is described as small.",
        "As described, the dog is small.",
        "The colour is not specified.",
        "The text does not say who walks.",
        "Based on the given sentences, it is noon.",
        "The information provided does not tell.",
        "A dog is mentioned in the picture.",
    ],
)
def test_a_leak_of_the_source(street: Scene, text: str) -> None:
    assert reasons(street, text) == ["source leak"]


@pytest.mark.parametrize(
    "text",
    [
        "The mood could be described as calm.",
        "The dog walks into the box on the left.",
        "The text on the sign is red.",
        "Details such as the light add to it.",
        "A clear context for a walk.",
        "There are 2 cars, 10.30 on the clock.",
        "The dog is coordinated.",
    ],
)
def test_what_is_no_leak(street: Scene, text: str) -> None:
    assert reasons(street, text) == []


def test_words_of_the_captions_are_no_leak(street: Scene) -> None:
    cartoon = Scene(
        id="4",
        image="4.jpg",
        width=None,
        height=None,
        captions=("A cartoon dog with a caption.",),
        boxes=(),
    )
    assert reasons(cartoon, "A dog with a caption.") == []


@pytest.mark.parametrize(
    ("question", "wrong"),
    [
        ("What might happen next?", False),
        ("Why might the woman walk here?", False),
        ("Why is the dog near the bench under the clock?", True),
        ("Why are there two cars near the dog?", True),
        ("Why does the woman walk her puppy?", False),
    ],
)
def test_a_question_that_gives_away(street: Scene, question: str, wrong: bool) -> None:
    text = write_reply([Exchange(question, "It might rain.")])
    assert reasons(street, text, "reasoning") == (["given away"] if wrong else [])
    assert reasons(street, text, "conversation") == []


@pytest.mark.parametrize(
    ("kind", "question", "answer", "reason", "sentence"),
    [
        ("detail", "", "A dog. According to the caption, it walks.", "source leak", 1),
        ("detail", "", "A dog. A horse stands there.", "absent object", 1),
        ("detail", "", "A bench. There is no dog.", "denied object", 1),
        ("detail", "", "A bench. There are three dogs.", "wrong count", 1),
        ("detail", "", "A bench. The dog is right of the bench.", "wrong position", 1),
        ("detail", "", "I'm sorry, I cannot help with that.", "no answer", 0),
        ("refusal", "What colour is the dog?", "It is brown.", "not declined", 0),
        (
            "reasoning",
            "Why is the dog near the bench under the clock?",
            "It might rain.",
            "given away",
            None,
        ),
    ],
)
def test_each_reason_keeps_its_sentence(
    street: Scene, kind: Kind, question: str, answer: str, reason: str, sentence: int | None
) -> None:
    text = write_reply([Exchange(question, answer)]) if question else answer
    verdict = check(street, Reply(text=text, finish_reason="stop"), kind)
    said = question if sentence is None else re.split(r"(?<=\.) ", answer)[sentence]
    assert [(found.reason, found.sentence) for found in verdict.findings] == [(reason, said)]


def test_an_unparsable_reply_is_kept_as_it_is(street: Scene) -> None:
    verdict = check(street, Reply(text="A dog.", finish_reason="stop"), "conversation")
    assert [(found.reason, found.sentence) for found in verdict.findings] == [
        ("unparsable", "A dog.")
    ]


def test_repair_names_each_fault(street: Scene) -> None:
    verdict = check(street, Reply(text="A horse and two dogs.", finish_reason="stop"), "detail")
    message = repair_message(verdict)
    assert message.splitlines()[0] == "Your reply cannot be used:"
    assert message.count('"A horse and two dogs."') == 2
    assert "'horse': no horse is known to be in the picture" in message
    assert "2 dog told, where there are 1" in message
    with pytest.raises(LaternaError):
        repair_message(Verdict())


def test_near_duplicates() -> None:
    numbers = [f"word{number}" for number in range(60)]
    duplicates = NearDuplicates()
    assert not duplicates.add(" ".join(numbers))
    assert duplicates.add(" ".join(numbers))
    assert duplicates.add(" ".join(numbers).upper() + "!")
    assert duplicates.add(" ".join([*numbers[:-1], "other"]))
    assert not duplicates.add(" ".join(reversed(numbers)))
    assert not duplicates.add(" ".join([*numbers[:30], *(f"new{n}" for n in range(30))]))
    assert len(duplicates) == 3


def test_short_answers_may_be_alike() -> None:
    duplicates = NearDuplicates()
    assert not duplicates.add("Yes, there is a dog.")
    assert not duplicates.add("Yes, there is a dog.")


def test_many_texts_are_remembered() -> None:
    duplicates = NearDuplicates()
    texts = [" ".join(f"t{n}w{w}" for w in range(22)) for n in range(1500)]
    assert not any(duplicates.add(text) for text in texts)
    assert all(duplicates.add(text) for text in texts)
    assert len(duplicates) == 1500
