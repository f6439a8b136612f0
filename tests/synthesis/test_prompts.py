from __future__ import annotations

import pytest

from laterna.records import Kind, Scene
from laterna.synthesis.coco import CATEGORIES
from laterna.synthesis.grounding import unsupported_objects
from laterna.synthesis.object_words import ObjectWords
from laterna.synthesis.parsing import parse_reply
from laterna.synthesis.prompts import build_messages, detail_questions
from laterna.synthesis.proxy import read_proxy, write_proxy

EXAMPLES: dict[Kind, int] = {"conversation": 2, "detail": 3, "reasoning": 3}
"""LLaVA's number of few-shot examples a kind (REFERENCE.md, section 1)."""
BEYOND: dict[Kind, set[str]] = {
    "conversation": {"cat"},
    "detail": {"person", "chair"},
    "reasoning": {"person"},
}
"""Named without being there: the absent cat asked for, people to come, the seat of a couch."""


@pytest.mark.parametrize("kind", EXAMPLES)
def test_system_examples_and_context_in_that_order(kind: Kind) -> None:
    messages = build_messages(kind, "A dog.")
    roles = ["system", *["user", "assistant"] * EXAMPLES[kind], "user"]
    assert [message.role for message in messages] == roles
    assert messages[-1].content == "A dog."
    assert all(m.content == m.content.strip() and m.content for m in messages)


@pytest.mark.parametrize("kind", EXAMPLES)
def test_examples_are_in_the_form_they_teach(kind: Kind) -> None:
    messages = build_messages(kind, "A dog.")
    for context, reply in zip(messages[1:-1:2], messages[2:-1:2], strict=True):
        captions, boxes = read_proxy(context.content)
        assert len(captions) == 5
        assert write_proxy(captions, boxes) == context.content
        assert bool(boxes) is (kind != "conversation")
        if kind == "detail":
            assert "Question:" not in reply.content
        else:
            assert len(parse_reply(reply.content)) == (1 if kind == "reasoning" else 5)


@pytest.mark.parametrize("kind", EXAMPLES)
def test_examples_name_only_what_their_context_holds(kind: Kind) -> None:
    words = ObjectWords(CATEGORIES)
    messages = build_messages(kind, "A dog.")
    for context, reply in zip(messages[1:-1:2], messages[2:-1:2], strict=True):
        captions, boxes = read_proxy(context.content)
        scene = Scene(id="", picture="", width=None, height=None, captions=captions, boxes=boxes)
        assert set(unsupported_objects(reply.content, scene, words)) <= BEYOND[kind]
        said = reply.content.lower()
        assert not {"caption", "described", "description", "box"} & set(said.split())


def test_questions_for_descriptions() -> None:
    assert len(detail_questions()) == len(set(detail_questions())) == 6
    assert "Describe the picture in detail." in detail_questions()
