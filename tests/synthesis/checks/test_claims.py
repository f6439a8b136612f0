"""Sentences, and what is found in each: objects, counts and positions by value."""

from __future__ import annotations

import pytest

from laterna.records import Box, Finding, Kind, Reply, Scene
from laterna.synthesis.checks import check
from laterna.synthesis.parsing import Exchange, write_reply


def found(scene: Scene, answer: str, kind: Kind = "detail", question: str = "") -> list[str]:
    text = write_reply([Exchange(question, answer)]) if question else answer
    reply = Reply(text=text, finish_reason="stop")
    return [finding.reason for finding in check(scene, reply, kind).findings]


@pytest.mark.parametrize(
    "sentence",
    [
        "A woman, a dog and a purse-free bench.",
        "There is no cat in the picture.",
        "The street is shown without any trucks, buses or bicycles.",
        "There isn't a cat, and no bird can be seen.",
        "The woman might be going to ride a bus.",
        "She is possibly waiting for a train.",
        "The bus stop nearby is empty.",
        "It looks like a horse.",
        "A toy train lies on the ground.",
        "A statue of a horse stands there.",
        "The dog is either a cat or a puppy.",
        "She may book a flight, and can train the dog.",
        "Instead of a horse, a dog is with her.",
        "This is a remote area, bear in mind.",
        "The dog's owner wears glasses.",
        "A hot day: the orange and white dog rests.",
        "A cat is not visible.",
        "A cat cannot be seen.",
        "A cat is nowhere to be seen.",
    ],
)
def test_no_object_is_wrongly_called_absent(street: Scene, sentence: str) -> None:
    assert found(street, sentence) == []


@pytest.mark.parametrize(
    "sentence",
    [
        "There is a cat next to the dog.",
        "An elephant can be seen in the background.",
        "A bus is visible as well.",
        "There is no cat but there is a horse.",
        "Not only a dog but also a horse stands there.",
        "The woman is not sitting, she rides a horse.",
        "Two horses graze.",
        "Next to it stands a double-decker bus.",
        "A fire hydrant's shadow falls on the dog.",
        "Several bananas lie on the bench.",
        "There appears to be a kite.",
    ],
)
def test_an_absent_object_is_found(street: Scene, sentence: str) -> None:
    assert found(street, sentence) == ["absent object"]


def test_the_offending_sentence_is_kept(street: Scene) -> None:
    reply = Reply(text="A dog sits. A horse stands behind. All is calm.", finish_reason="stop")
    verdict = check(street, reply, "detail")
    detail = "'horse': no horse is known to be in the picture"
    sentence = "A horse stands behind."
    assert verdict.findings == (Finding(reason="absent object", sentence=sentence, detail=detail),)
    assert not verdict.accepted
    # the horse; that a dog sits, where the horse stands and that all is calm is not decided
    assert (verdict.checked, verdict.unchecked) == (1, 3)


@pytest.mark.parametrize(
    ("sentence", "kind", "reasons"),
    [
        ("A bus might come along soon.", "reasoning", []),
        ("Dogs are loyal, and trains carry people.", "reasoning", []),
        ("The person is likely the owner of a cat.", "reasoning", []),
        ("In the picture there are trains.", "reasoning", ["absent object"]),
        ("One can see a horse behind the dog.", "reasoning", ["absent object"]),
        ("Pets such as cats need care.", "reasoning", []),
    ],
)
def test_reasoning_may_suppose(
    street: Scene, sentence: str, kind: Kind, reasons: list[str]
) -> None:
    assert found(street, sentence, kind, "What may happen next?") == reasons


@pytest.mark.parametrize(
    ("sentence", "reasons"),
    [
        ("There is no dog in the picture.", ["denied object"]),
        ("There is no dog.", ["denied object"]),
        ("There isn't any dog visible.", ["denied object"]),
        ("There is no dog on the bench.", []),
        ("There is no red car.", []),
        ("There is no other dog in the picture.", []),
        ("There are no women in the picture.", []),
    ],
)
def test_a_denied_object(street: Scene, sentence: str, reasons: list[str]) -> None:
    assert found(street, sentence) == reasons


@pytest.mark.parametrize(
    ("sentence", "reasons"),
    [
        ("There are two cars in the picture.", []),
        ("There are three cars in the picture.", ["wrong count"]),
        ("There is one car in the picture.", ["wrong count"]),
        ("One car is parked.", []),
        ("The picture shows 5 small dark cars.", ["wrong count"]),
        ("Only one car is visible.", ["wrong count"]),
        ("There are two dogs.", ["wrong count"]),
        ("Several dogs run.", ["wrong count"]),
        ("Several cars pass.", []),
        ("There is one bottle.", []),
        ("Two bottles stand there.", ["wrong count"]),
        ("One of the cars is red.", []),
        ("Three trees stand there.", []),
        ("There might be three dogs.", []),
        ("The four cars could belong to the woman.", ["wrong count"]),
        ("Two people walk.", ["wrong count"]),
        ("Four-wheeled cars pass.", []),
    ],
)
def test_counts(street: Scene, sentence: str, reasons: list[str]) -> None:
    assert found(street, sentence) == reasons


@pytest.mark.parametrize(
    ("sentence", "reasons"),
    [
        ("There are nine people in the picture.", []),
        ("There are two people in the picture.", []),
        ("There is one person in the picture.", ["wrong count"]),
        ("One person looks up.", []),
        ("A group of people stands.", []),
    ],
)
def test_boxes_are_a_lower_bound_where_captions_are_vague(
    crowd: Scene, sentence: str, reasons: list[str]
) -> None:
    assert found(crowd, sentence) == reasons


@pytest.mark.parametrize(
    ("sentence", "wrong"),
    [
        ("The dog is to the left of the bench.", False),
        ("The dog is to the right of the bench.", True),
        ("The bench is to the left of the dog.", True),
        ("To the right of the bench, there is a dog.", True),
        ("To the left of the bench, there is a dog.", False),
        ("The dog sits on the left side of the bench.", False),
        ("The dog sits on the right side of the bench.", True),
        ("The clock hangs above the bench.", False),
        ("The clock hangs below the bench.", True),
        ("The bench is above the clock.", True),
        ("The dog is on the left.", False),
        ("The dog is on the right.", True),
        ("On the right side of the image, there is a dog.", True),
        ("The clock is in the top left corner.", True),
        ("The clock is in the top right corner.", False),
        ("The clock is at the bottom of the picture.", True),
        ("The dog is in the centre of the picture.", True),
        ("The clock is in the middle of the picture.", True),
        ("The bottle is in the middle.", False),
        ("The dog is in the top middle.", True),
        ("The bench is near the bottle, with the dog to its left.", False),
        ("The car is on the right, with the person on the left.", False),
        ("Two cars stand there, one on the left and one on the right.", False),
        ("The dog is not to the left of the bench.", True),
        ("The dog is not to the right of the bench.", False),
        ("The dog, which is asleep, is to the left of the bench.", False),
        ("Just to the right of the bench one sees the dog.", True),
        ("Over on the right sits a dog.", True),
        ("On the right a dog can be seen.", True),
        ("On the left a dog can be seen.", False),
    ],
)
def test_positions(street: Scene, sentence: str, wrong: bool) -> None:
    assert found(street, sentence) == (["wrong position"] if wrong else [])


@pytest.mark.parametrize(
    "sentence",
    [
        "The dog lies on its right side.",
        "The dog's right side is dirty.",
        "The dog has a scar on its right ear.",
        "There are cars to the left and right of the person.",
        "The dog has a bench to its right and a car to its right.",
        "The dog is beside a car, on the right.",
        "The dog has a car and a bench to its right.",
    ],
)
def test_a_side_that_may_be_anothers_is_unchecked(street: Scene, sentence: str) -> None:
    assert "wrong position" not in found(street, sentence)


@pytest.mark.parametrize(
    "sentence",
    [
        "A lamp next to the dog on the right.",
        "The dog is further to the right.",
        "The dog looks to the right.",
        "The dog is on the right track.",
        "The dog lies on the right side of the road.",
        "The clock is at the bottom of the tower.",
        "The bench is in the background.",
        "The dog is possibly to the right of the bench.",
        "The bench has a sticker at the top.",
        "A bench with a dog stands on the left.",
        "The dog raises its right paw.",
    ],
)
def test_a_position_that_boxes_cannot_decide_is_unchecked(street: Scene, sentence: str) -> None:
    verdict = check(street, Reply(text=sentence, finish_reason="stop"), "detail")
    assert [f for f in verdict.findings if f.reason == "wrong position"] == []


@pytest.mark.parametrize(
    ("question", "answer", "reasons"),
    [
        ("How many cars are there?", "Two", []),
        ("How many cars are there? Answer in one word or phrase.", "Three", ["wrong count"]),
        ("How many cars are there?", "One", ["wrong count"]),
        ("How many cars are parked near the dog?", "One", []),
        ("How many cars are there?", "There are three.", ["wrong count"]),
        ("How many cars are there?", "There are two.", []),
        ("How many cars are there?", "Exactly two", []),
        ("How many cars are there?", "A dozen", ["wrong count"]),
        ("How many cars are there?", "Twenty-one.", ["wrong count"]),
        ("How many dogs are there?", "A pair.", ["wrong count"]),
        ("How many cars are there?", "Many", []),
        ("Is the woman alone?", "No, she is with two horses.", ["absent object"]),
        ("Are there any cats?", "No, there are no cats, but there is a horse.", ["absent object"]),
        ("Is there a cat?", "No. There is a horse instead.", ["absent object"]),
        ("Is there a cat?", "No, there is not.", []),
        ("Is there a dog?", "No, there is no dog.", ["denied object", "denied object"]),
        ("Is the dog asleep?", "No, it walks with the woman.", []),
        ("Is the dog on the left?", "No, it is not a cat.", []),
        ("Is there a dog in the picture?", "Yes", []),
        ("Is there a dog in the picture?", "No", ["denied object"]),
        ("Is there a cat in the picture?", "No", []),
        ("Is there a cat in the picture?", "Yes, there is.", ["absent object"]),
        ("Can you see a cat?", "Yes", ["absent object"]),
        ("Where is the dog?", "Left", []),
        ("Where is the dog?", "Top right", ["wrong position"]),
        ("What is at the top left?", "Clock", ["wrong position"]),
        ("What is at the top right?", "Clock", []),
        ("Is the dog to the left of the bench?", "Yes", []),
        ("Is the dog to the right of the bench?", "Yes", ["wrong position"]),
        ("Is the dog to the left of the bench?", "No", ["wrong position"]),
        ("What colour is the cat?", "Black", ["absent object"]),
        ("What colour is the cat?", "There is no cat here.", []),
        ("What is the woman doing?", "She walks.", []),
    ],
)
def test_question_and_answer_state_things_together(
    street: Scene, question: str, answer: str, reasons: list[str]
) -> None:
    assert found(street, answer, "conversation", question) == reasons


def test_a_negative_question_may_name_what_is_absent(street: Scene) -> None:
    answer = "There is no cat in the picture, only a dog."
    assert found(street, answer, "negative", "What is the cat on the bench doing?") == []
    lie = "The cat sleeps."
    assert found(street, lie, "negative", "What is the cat doing?") == ["absent object"]


@pytest.mark.parametrize(
    ("answer", "reasons"),
    [
        ("Blue", ["wrong colour"]),
        ("It is blue.", ["wrong colour"]),
        ("Red.", []),
        ("Bright red", []),
    ],
)
def test_a_bare_colour_is_that_of_the_thing_asked_about(answer: str, reasons: list[str]) -> None:
    box = Box(category="kite", x1=0.1, y1=0.1, x2=0.4, y2=0.4)
    scene = Scene(
        id="5", image="5.jpg", width=None, height=None, captions=("A red kite.",), boxes=(box,)
    )
    assert found(scene, answer, "conversation", "What colour is the kite?") == reasons
    assert found(scene, answer, "conversation", "What color is the kite?") == reasons


def test_categories_of_other_sources_go_by_cocos_names() -> None:
    man = Scene(
        id="3",
        image="3.jpg",
        width=None,
        height=None,
        captions=(),
        boxes=(Box(category="Man", x1=0.1, y1=0.1, x2=0.4, y2=0.9),),
    )
    assert found(man, "A person stands on the left.") == []
    assert found(man, "A person stands on the right.") == ["wrong position"]
    assert found(man, "There are two people.") == ["wrong count"]
