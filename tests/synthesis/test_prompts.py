from __future__ import annotations

from pathlib import Path

import pytest

from laterna.errors import LaternaError
from laterna.records import Kind, Reply, Scene
from laterna.scenes.vocabulary import CATEGORIES, ObjectWords
from laterna.synthesis.checks import check
from laterna.synthesis.parsing import parse_reply
from laterna.synthesis.prompts import build_messages, detail_questions
from laterna.synthesis.proxy import read_proxy, write_proxy

EXAMPLES: dict[Kind, int] = {
    "conversation": 2,
    "detail": 3,
    "reasoning": 3,
    "negative": 2,
    "refusal": 3,
}
"""Few-shot examples a kind; LLaVA's number for its three (REFERENCE.md, section 1)."""
EXCHANGES: dict[Kind, int] = {"conversation": 5, "reasoning": 1, "negative": 3, "refusal": 1}
"""Exchanges of each example."""
LLAVA_WORDS: dict[Kind, int] = {"conversation": 94, "detail": 129, "reasoning": 114}
"""Words of an answer in LLaVA's own examples, by mean: examples set the length of replies."""
BEYOND: dict[Kind, set[str]] = {
    "conversation": {"cat", "person"},
    "detail": {"person", "chair"},
    "reasoning": {"person"},
    "negative": {"dog", "bottle", "umbrella", "bicycle", "stop sign", "elephant"},
    "refusal": {"person"},
}
"""Named without being there: the absent cat asked for, those of whom advice speaks, people to come,
the seat of a couch, what negative answers deny, a doctor."""


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
            assert len(parse_reply(reply.content)) == EXCHANGES[kind]


@pytest.mark.parametrize("kind", EXAMPLES)
def test_examples_name_only_what_their_context_holds(kind: Kind) -> None:
    words = ObjectWords(CATEGORIES)
    messages = build_messages(kind, "A dog.")
    for context, reply in zip(messages[1:-1:2], messages[2:-1:2], strict=True):
        captions, boxes = read_proxy(context.content)
        held = {box.category for box in boxes}
        held |= {name for caption in captions for name in words.categories(caption)}
        assert words.categories(reply.content) - held <= BEYOND[kind]
        said = reply.content.lower()
        assert not {"caption", "described", "description", "box"} & set(said.split())


@pytest.mark.parametrize("kind", EXAMPLES)
def test_examples_pass_our_own_checks(kind: Kind) -> None:
    messages = build_messages(kind, "A dog.")
    for number, (context, reply) in enumerate(zip(messages[1:-1:2], messages[2:-1:2], strict=True)):
        captions, boxes = read_proxy(context.content)
        scene = Scene(
            id=f"{number}", image="a.jpg", width=None, height=None, captions=captions, boxes=boxes
        )
        verdict = check(scene, Reply(text=reply.content, finish_reason="stop"), kind)
        assert verdict.findings == ()


@pytest.mark.parametrize(("kind", "words"), LLAVA_WORDS.items())
def test_answers_are_as_long_as_llavas(kind: Kind, words: int) -> None:
    lengths = []
    for reply in build_messages(kind, "A dog.")[2:-1:2]:
        bare = kind == "detail"
        answers = [reply.content] if bare else [one.answer for one in parse_reply(reply.content)]
        lengths += [len(answer.split()) for answer in answers]
    assert 0.8 * words <= sum(lengths) / len(lengths) <= 1.2 * words


def test_long_answers_have_paragraphs_and_short_ones_none() -> None:
    for reply in build_messages("conversation", "A dog.")[2:-1:2]:
        answers = [one.answer for one in parse_reply(reply.content)]
        assert ["\n\n" in answer for answer in answers] == [False, False, False, True, True]
    for kind in ("detail", "reasoning"):
        assert all("\n\n" in reply.content for reply in build_messages(kind, "A dog.")[2:-1:2])


@pytest.mark.parametrize(
    ("kind", "rule"),
    [
        ("conversation", "in detail, step by step, with examples, in several paragraphs"),
        ("reasoning", "how many things there are and where they are"),
        ("negative", "Choose things that are likely in such a scene"),
    ],
)
def test_rules_of_the_system_messages(kind: Kind, rule: str) -> None:
    assert rule in build_messages(kind, "A dog.")[0].content


def test_questions_for_descriptions() -> None:
    assert len(detail_questions()) == len(set(detail_questions())) == 6
    assert "Describe the picture in detail." in detail_questions()


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / f"{name.removeprefix('_')}.txt").write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("kind", "folder"),
    [
        ("conversation", "conversation"),
        ("detail", "detail_description"),
        ("reasoning", "complex_reasoning"),
    ],
)
def test_llavas_folder_layout(tmp_path: Path, kind: Kind, folder: str) -> None:
    files = {"_001_caps": "B.", "_001_conv": "b", "_000_caps": "A.", "_000_conv": "a\n"}
    write(tmp_path / folder, system_message="Rules.\n", **files)
    said = [(m.role, m.content) for m in build_messages(kind, "C.", tmp_path)]
    assert said == [
        ("system", "Rules."),
        ("user", "A."),
        ("assistant", "a"),
        ("user", "B."),
        ("assistant", "b"),
        ("user", "C."),
    ]
    if kind == "detail":
        assert detail_questions(tmp_path) == detail_questions(), "LLaVA's layout has no questions"


def test_a_users_own_prompts_in_our_layout(tmp_path: Path) -> None:
    write(tmp_path / "negative", system_message="No.", _000_context="A dog.", _000_reply="None.")
    write(tmp_path / "detail", system_message="Tell.", questions="Well?\n\nAnd?\n")
    assert [m.content for m in build_messages("negative", "X.", tmp_path)] == [
        "No.", "A dog.", "None.", "X.",
    ]  # fmt: skip
    assert [m.content for m in build_messages("detail", "X.", tmp_path)] == ["Tell.", "X."]
    assert detail_questions(tmp_path) == ("Well?", "And?")


def test_errors_name_what_is_missing(tmp_path: Path) -> None:
    def fails(kind: Kind, match: str) -> None:
        with pytest.raises(LaternaError, match=match):
            build_messages(kind, "X.", tmp_path)

    fails("detail", r"no prompts for kind 'detail': .*detail or detail_description with system_m")
    fails("refusal", r"no prompts for kind 'refusal': it needs the folder refusal with")
    write(tmp_path / "conversation", _000_caps="A.")
    fails("conversation", r"conversation lacks system_message.txt, the system message")
    write(tmp_path / "conversation", system_message="Rules.")
    fails("conversation", r"000_caps.txt has no 000_conv.txt beside it")
    write(tmp_path / "conversation", _000_conv="a", _001_conv="b")
    fails("conversation", r"001_conv.txt belongs to no example")
    write(tmp_path / "reasoning", system_message=" \n")
    fails("reasoning", r"system_message.txt is empty")
    write(tmp_path / "complex_reasoning", system_message="Rules.")
    fails("reasoning", r"holds both reasoning and complex_reasoning; keep one")
    write(tmp_path / "negative")
    (tmp_path / "negative" / "system_message.txt").write_bytes(b"\xff\xfe\xfa")
    fails("negative", r"system_message.txt is not UTF-8 text")
    write(tmp_path / "detail", system_message="Rules.", questions="?")
    (tmp_path / "detail" / "questions.txt").write_text("\n")
    with pytest.raises(LaternaError, match=r"questions.txt is empty"):
        detail_questions(tmp_path)
