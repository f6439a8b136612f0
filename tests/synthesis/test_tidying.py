"""What stands around an answer is taken off by rule; what no rule takes off is found."""

from __future__ import annotations

import time

import pytest

from laterna.records import Kind, Message, Reply
from laterna.synthesis.checks.form import check_finish, read_exchanges
from laterna.synthesis.parsing import Exchange
from laterna.synthesis.prompts import build_messages
from laterna.synthesis.tidying import faults, foreign, tidy

TEXT = "A dog stands beside a cat on the grass."
THOUGHT = "Okay, the user wants a description. I will write about the dog."
REQUEST = "You are looking at one image. Describe it at length, as someone who sees it."


@pytest.mark.parametrize(
    ("reply", "taken"),
    [
        (TEXT, ()),
        (f"<think>\n{THOUGHT}\n</think>\n\n{TEXT}", ("thoughts",)),
        (f"<THINKING>{THOUGHT}</THINKING>{TEXT}", ("thoughts",)),
        (f"{THOUGHT}\n</think>\n\n{TEXT}", ("thoughts",)),
        (f"<think>a <think>b</think> c</think>{TEXT}", ("thoughts",)),
        (f"{TEXT}\n<think>Was that right?</think>", ("thoughts",)),
        (f"[THINK]{THOUGHT}[/THINK]{TEXT}", ("thoughts",)),
        (f"◁think▷{THOUGHT}◁/think▷{TEXT}", ("thoughts",)),
        (
            f"<|channel|>analysis<|message|>{THOUGHT}<|end|><|start|>assistant"
            f"<|channel|>final<|message|>{TEXT}<|return|>",
            ("thoughts", "special tokens"),
        ),
        (f"{TEXT}<|im_end|>", ("special tokens",)),
        (f"{TEXT}</s></s>", ("special tokens",)),
        (f"<|im_start|>assistant\n{TEXT}<|im_end|>\n<|endoftext|>", ("special tokens",)),
        (f"<s> {TEXT} <end_of_turn>", ("special tokens",)),
        (f"{TEXT}<｜end▁of▁sentence｜>", ("special tokens",)),
        (f"<answer>{TEXT}</answer>", ("special tokens",)),
        (f"{TEXT}\x00", ("invisible characters",)),
        (f"\u202b{TEXT}\u202c\u200e", ("invisible characters",)),
        (f"\ufeff{TEXT}", ("invisible characters",)),
        (f"{TEXT} \ufffd", ("invisible characters",)),
        (f"```\n{TEXT}\n```", ("code fences",)),
        (f"```markdown\n{TEXT}\n```", ("code fences",)),
        (f"```{TEXT}```", ("code fences",)),
        (f"Sure! Here is a detailed description of the image:\n\n{TEXT}", ("preambles",)),
        (f"Certainly! Here's the description of the image: {TEXT}", ("preambles",)),
        (f"Of course!\n\n{TEXT}", ("preambles",)),
        (f"Absolutely, here is your detailed image caption.\n{TEXT}", ("preambles",)),
        (f"I'd be happy to help with a description.\n\n{TEXT}", ("preambles",)),
        (f"Description: {TEXT}", ("preambles",)),
        (f"**Description:**\n\n{TEXT}", ("headings",)),
        (f"# Image description\n\n{TEXT}", ("headings",)),
        (f"Sure!\n\n## The scene\n\n{TEXT}", ("preambles", "headings")),
        (f"A **dog** stands {TEXT.partition('stands ')[2]}", ("bold type",)),
        (f"{TEXT}\n\nLet me know if you need anything else!", ("closing remarks",)),
        (f"{TEXT}\n\nI hope this helps!", ("closing remarks",)),
        (TEXT.replace(" a ", "\u00a0a ") + "\r\n", ()),
    ],
)
def test_what_stands_around_an_answer_is_taken_off(reply: str, taken: tuple[str, ...]) -> None:
    tidied = tidy(reply)
    assert tidied == (TEXT, taken)
    assert tidy(TEXT) == (TEXT, ())
    assert faults(TEXT) == foreign(TEXT, REQUEST) == ()


@pytest.mark.parametrize(
    "text",
    [
        "Great blue herons stand in the water: three of them.",
        "Certainly worth a look is the dog in the middle.",
        "Here is where the dog sleeps.",
        "Based on the shadows, it is noon.",
        "On the table there are three things:\n- a cup\n- a fork\n- a knife",
        "The sign says: stop.",
        "If you look closely, a cat sits there.\nNote the red kite above it.",
        "It costs 5 < 6 and the * marks it.",
        "A cat’s ear – “pointed” – is seen at 10:30 am… really!",
        "First, a dog. Second, a cat. Now and then they play.",
    ],
)
def test_plain_answers_are_left_as_they_are(text: str) -> None:
    assert tidy(text) == (text, ())
    assert faults(text) == ()


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (f"<think>\n{THOUGHT}", "unclosed thought"),
        (f"{TEXT} <think> But is it?", "unclosed thought"),
        (f"{TEXT}<|im_end|>\n<|im_start|>user\nWhat else?", "special token"),
        (f"{TEXT}</s>[INST] More? [/INST] Yes.", "special token"),
        ("A dog <image> stands there.", "mark of an image"),
        *(
            (text.format(mark), "mark of an image")
            for mark in (
                "<image>",
                "</image>",
                "<Image_1>",
                "<img>",
                "<img src='dog.jpg'/>",
                "<video>",
                "<audio>",
                "<im_start>",
                "<im_patch>",
                "<|image|>",
                "<|image_pad|>",
                "[IMG]",
                "<start_of_image>",
                "<image_soft_token>",
                "[IMAGE]",
                "![A dog](dog.jpg)",
                "<|vision_start|>",
            )
            for text in ("{}\nA dog stands beside a red car.", "A dog stands beside a car.{}")
        ),
        (THOUGHT, "thinking aloud"),
        ("Let me think about this. A dog is there.", "thinking aloud"),
        ("We need to write a description of a dog.", "thinking aloud"),
        ("The dog dog dog dog dog dog dog dog runs.", "gibberish"),
        ("It runs. " + "A man in a red hat. " * 8, "gibberish"),
        ("A do\ufffdg stands th\ufffdre.", "gibberish"),
        ("A " + "x" * 60 + " stands there.", "gibberish"),
    ],
)
def test_what_no_rule_takes_off_is_found(reply: str, reason: str) -> None:
    assert [finding.reason for finding in faults(tidy(reply).text)] == [reason]
    found = read_exchanges(Reply(text=reply, finish_reason="stop"), "detail")
    assert not isinstance(found, tuple)
    assert found.reason == reason


SPANISH = "Un perro y un gato juegan juntos sobre la hierba verde cerca de una valla."
GERMAN = "Ein Hund und eine Katze spielen zusammen auf der grünen Wiese neben dem Zaun."
CHINESE = "草地上有一只狗和一只猫，它们在一起玩耍。"
MASH = "qwer asdf zxcv lkjh poiu mnbv rtyu fghj vbnm wert sdfg xcvb"


@pytest.mark.parametrize("text", [SPANISH, GERMAN, CHINESE, MASH, f"The dog is {CHINESE[:3]}."])
def test_a_language_that_was_not_asked_for_is_found(text: str) -> None:
    assert [finding.reason for finding in foreign(text, REQUEST)] == ["foreign language"]


def test_whoever_asks_in_another_language_gets_it() -> None:
    request = f"Beschreibe das Bild. {GERMAN}"
    assert foreign(GERMAN, request) == ()
    assert foreign("The sign says 草地上.", f"{REQUEST} printed words: {CHINESE}") == ()
    assert foreign("Two.", REQUEST) == ()


def test_our_own_prompts_and_examples_are_what_they_ask_for() -> None:
    kinds: tuple[Kind, ...] = ("conversation", "detail", "reasoning", "negative", "refusal")
    for kind in kinds:
        messages: tuple[Message, ...] = build_messages(kind, "A dog.")
        request = "\n".join(message.content for message in messages)
        for message in messages:
            if message.role == "assistant":
                assert tidy(message.content).stripped == ()
                assert faults(message.content) == foreign(message.content, request) == ()


@pytest.mark.parametrize("reason", ["stop", "STOP", "eos", "EOS_TOKEN", "end_turn", "COMPLETE", ""])
def test_good_finish_reasons(reason: str) -> None:
    assert check_finish(Reply(text=TEXT, finish_reason=reason)) == ()


@pytest.mark.parametrize(
    ("reason", "text", "found"),
    [
        ("", "A dog stands besi", "truncated"),
        ("length", TEXT, "truncated"),
        ("MAX_TOKENS", TEXT, "truncated"),
        ("RECITATION", TEXT, "not finished"),
        ("function_call", TEXT, "not finished"),
        ("unknown", TEXT, "not finished"),
        ("error: Provider timed out", "A dog", "not finished"),
    ],
)
def test_every_other_finish_reason_rejects(reason: str, text: str, found: str) -> None:
    (finding,) = check_finish(Reply(text=text, finish_reason=reason))
    assert finding.reason == found
    if "Provider" in reason:
        assert "Provider timed out" in finding.detail


def test_a_description_may_bear_an_answers_label_and_no_other() -> None:
    def read(text: str) -> object:
        return read_exchanges(Reply(text=text, finish_reason="stop"), "detail")

    assert read(f"Assistant: {TEXT}") == read(f"**Answer:**\n{TEXT}") == (Exchange("", TEXT),)
    for text in (f"Question: What?\nAnswer: {TEXT}", f"{TEXT}\n===\n{TEXT}"):
        assert getattr(read(text), "reason", "") == "unparsable"


@pytest.mark.parametrize(
    "text",
    [
        "<think>" * 50_000,
        " " * 200_000 + "x",
        "**" * 100_000,
        "Q" + " " * 100_000,
        "<|" * 100_000,
        "a" * 300_000,
        "Sure! " * 50_000,
        "===\n" * 50_000,
        "no " * 100_000,
        "\n" * 200_000 + "x",
        "#" * 100_000,
        "(1) " * 50_000,
    ],
)
def test_long_nonsense_takes_no_time(text: str) -> None:
    started = time.process_time()
    for kind in ("detail", "conversation"):
        read_exchanges(Reply(text=f"{text} end", finish_reason="stop"), kind)  # type: ignore[arg-type]
    foreign(text, REQUEST)
    assert time.process_time() - started < 3
