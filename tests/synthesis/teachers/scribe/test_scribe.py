from __future__ import annotations

import asyncio
import hashlib

import pytest

from laterna.errors import LaternaError
from laterna.records import Kind, Message
from laterna.scenes.survey import Survey
from laterna.synthesis.parsing import parse_reply
from laterna.synthesis.teachers.scribe import Scribe

PROXY = """\
A red dog and a blue cup.
A dog beside a cup.

dog: [0.1, 0.1, 0.2, 0.2]
cup: [0.8, 0.8, 0.9, 0.9]"""
HASHES = ["e14ef50763d3", "42016c4b7afc", "e56457df3834"]
KINDS: tuple[Kind, ...] = ("conversation", "detail", "reasoning", "negative", "refusal")


def reply(kind: Kind, text: str = PROXY, seed: int = 0) -> str:
    scribe = Scribe(kind, Survey(("dog", "cup", "kite", "train")), seed)
    messages = [Message(role="system", content="Ignored."), Message(role="user", content=text)]
    answer = asyncio.run(scribe.complete(messages))
    assert answer.finish_reason == "stop"
    return answer.text


@pytest.mark.parametrize("kind", KINDS)
def test_same_text_kind_and_seed_give_the_same_reply(kind: Kind) -> None:
    assert reply(kind) == reply(kind) != ""
    assert len({reply(kind, seed=seed) for seed in range(12)}) > 3


def test_replies_are_in_the_form_asked_for() -> None:
    assert len(parse_reply(reply("conversation"))) == 6
    assert len(parse_reply(reply("reasoning"))) == 2
    assert len(parse_reply(reply("negative"))) == 2, "kite and train are all that is absent"
    assert len(parse_reply(reply("refusal"))) == 2
    assert "\n" not in reply("detail")
    assert "red dog and a blue cup" in reply("detail")


@pytest.mark.parametrize("kind", sorted({*KINDS} - {"negative"}))
def test_nothing_is_said_of_nothing(kind: Kind) -> None:
    assert reply(kind, "A sunny day.") == ""


def test_only_annotated_categories_are_said_to_be_absent() -> None:
    questions = " ".join(
        exchange.question
        for seed in range(40)
        for exchange in parse_reply(reply("conversation", seed=seed))
        if exchange.answer.lower().startswith("no")
    )
    assert "kite" in questions
    assert "train" in questions
    assert "giraffe" not in questions


def test_a_proxy_that_cannot_be_read_is_named() -> None:
    with pytest.raises(LaternaError, match="not a box line"):
        reply("detail", "A dog.\n\nA cat.")


def test_enriched_proxies_are_read_as_any_other() -> None:
    enriched = PROXY + (
        '\nprinted text: "STOP" at [0.1, 0.1, 0.2, 0.2]\nlighting: dim\ndominant colours: brown'
        "\ntexture of cup [0.8, 0.8, 0.9, 0.9]: striped"
    )
    assert "red dog and a blue cup" in reply("detail", enriched)


def test_the_words_that_base_models_were_trained_on_stay_as_they_are() -> None:
    """The shipped models learned from scribe's text of these kinds: it must not drift."""
    assert [text_hash(reply(kind)) for kind in KINDS[:3]] == HASHES


def text_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
