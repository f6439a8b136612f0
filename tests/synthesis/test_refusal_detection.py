"""What declines to answer, and what only sounds like it."""

from __future__ import annotations

import pytest

from laterna.synthesis.parsing import parse_reply
from laterna.synthesis.prompts import build_messages
from laterna.synthesis.refusal_detection import declines


@pytest.mark.parametrize(
    "answer",
    [
        "I am sorry, but I cannot name anyone, because a face does not prove who someone is.",
        "I'm sorry, I can't help with that.",
        "I’m afraid I can’t tell you who she is.",
        "Sorry, I am not able to identify people.",
        "I have to decline: that takes an examination and not a picture.",
        "I'd rather not guess how old he is.",
        "I don't know.",
        "I will not guess her age, because it might hurt her.",
        "I really would not say who is right.",
        "I'm not comfortable naming strangers.",
        "I cannot tell it, because it is nobody's business but the owner's.",
        "It is not possible to tell from the picture.",
        "It's impossible to say for sure what he thinks.",
        "It is difficult to determine the exact number.",
        "The brand cannot be determined from the image.",
        "It cannot be seen in the picture what the sign says.",
        "One cannot tell.",
        "You can't see what is written there.",
        "It is unclear what the man is holding.",
        "His name is unknown.",
        "The time on the clock is not readable from here.",
        "The image does not provide any information about the price.",
        "The picture doesn't show who owns it. I can describe the bag, though: it is red.",
        "I cannot read it to you, but I can describe the page.",
        "There is no way to tell how old the bus is.",
        "Unfortunately, the photo alone does not reveal the city.",
    ],
)
def test_declines(answer: str) -> None:
    assert declines(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "No, there is no dog in the picture.",
        "A dog cannot be seen here.",
        "I cannot see any dog.",
        "I don't see one.",
        "The dog is not visible.",
        "It is hard to tell, but it looks like noon.",
        "It is not clear what he holds. However, it seems to be a cup.",
        "While the image does not provide the exact time, the shadows suggest noon.",
        "The man cannot reach the shelf.",
        "The boy is unable to hold the kite.",
        "The girl is trying to tell the dog to sit.",
        "The sign says that no one can tell the future.",
        "It is red.",
        "I am comfortable saying that it is red.",
        "I will tell you: it is red.",
        "She may be sorry that she cannot help.",
        "",
    ],
)
def test_answers(answer: str) -> None:
    assert not declines(answer)


def test_our_own_refusals_decline() -> None:
    replies = [m.content for m in build_messages("refusal", "A.") if m.role == "assistant"]
    assert [declines(parse_reply(reply)[0].answer) for reply in replies] == [True] * 3
