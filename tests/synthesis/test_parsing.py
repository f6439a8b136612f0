from __future__ import annotations

import json
from pathlib import Path

import pytest

from laterna.errors import LaternaError
from laterna.synthesis.parsing import Exchange, ReplyError, parse_reply, write_reply
from laterna.synthesis.tidying import Tidied, faults, foreign, tidy

TWO = """\
Question:
Is it?
===
Answer:
Yes.
===
Question:
How many?
===
Answer:
Two,
at least."""
"""The published form of REFERENCE.md, section 1."""


def test_the_form_is_read_and_written() -> None:
    exchanges = (Exchange("Is it?", "Yes."), Exchange("How many?", "Two,\nat least."))
    assert parse_reply(TWO) == exchanges
    assert write_reply(exchanges) == TWO
    assert parse_reply(f"\n{TWO}\n\n") == exchanges
    assert write_reply([]) == ""


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "Just words.",
        "Question:\nIs it?",
        "Question:\nIs it?\n===\nAnswer:\nYes.\n===\nQuestion:\nHow many?",
        "Answer:\nYes.\n===\nQuestion:\nIs it?",
        "Question:\nIs it?\n===\nAnswer:\nYes.\n ===\nQuestion:\nHow many?",
        "Question:\nIs it?\n===\nAnswer:\nYes.\n===\nIt is.",
        "Question:\nIs it?\nQuestion:\nHow many?\nAnswer:\nTwo.",
        "Question:\n \n===\nAnswer:\nYes.",
        "Question:\nIs it?\n===\nAnswer:\n  ",
    ],
)
def test_what_strays_from_the_form_is_refused(reply: str) -> None:
    with pytest.raises(ReplyError):
        parse_reply(reply)
    assert issubclass(ReplyError, LaternaError)


PAIRS = (
    Exchange("What animals are there?", "A dog and a cat.\n\nThey play."),
    Exchange("Where is the dog?", "It is near the cat."),
)
"""Said below in many ways; the first answer has two paragraphs."""


def said(before_q: str, before_a: str, between: str, line: str, after: str = "") -> str:
    """The pairs with this before questions and answers, between parts, and behind labels."""
    parts = []
    for number, (question, answer) in enumerate(PAIRS, start=1):
        parts += [
            f"{before_q.format(number)}{line}{question}{after}",
            f"{before_a.format(number)}{line}{answer}{after if len(answer) < 30 else ''}",
        ]
    return between.join(parts)


FORMS = {
    "as asked": said("Question:", "Answer:", "\n===\n", "\n"),
    "same line": said("Question:", "Answer:", "\n===\n", " "),
    "same line, no rule": said("Question:", "Answer:", "\n", " "),
    "blank lines": said("Question:", "Answer:", "\n\n", "\n"),
    "trailing rule": said("Question:", "Answer:", "\n===\n", "\n") + "\n===\n",
    "leading rule": "===\n" + said("Question:", "Answer:", "\n===\n", "\n"),
    "longer rules": said("Question:", "Answer:", "\n\n=====\n\n", "\n"),
    "dashes": said("Question:", "Answer:", "\n---\n", "\n"),
    "stars": said("Question:", "Answer:", "\n* * *\n", " "),
    "bold": said("**Question:**", "**Answer:**", "\n===\n", "\n"),
    "bold, colon outside": said("**Question**:", "**Answer**:", "\n\n", " "),
    "bold to the end": said("**Question: ", "Answer:", "\n", "").replace("?", "?**"),
    "italic": said("*Question:*", "*Answer:*", "\n", " "),
    "Q and A": said("Q:", "A:", "\n", " "),
    "bold Q and A": said("**Q:**", "**A:**", "\n\n", " "),
    "q and a": said("q:", "a:", "\n", " "),
    "Q. and A.": said("Q.", "A.", "\n", " "),
    "numbered Q": said("Q{}:", "A{}:", "\n", " "),
    "numbered Q with points": said("Q{}.", "A{}.", "\n", " "),
    "numbered Q with brackets": said("Q{})", "A{})", "\n", " "),
    "numbered labels": said("Question {}:", "Answer {}:", "\n===\n", "\n"),
    "numbered labels, hash": said("Question #{}:", "Answer #{}:", "\n\n", " "),
    "numbers before labels": said("{}. Question:", "   Answer:", "\n", " "),
    "numbers before bold": said("{}) **Q:**", "   **A:**", "\n", " "),
    "numbers alone": said("{}.", "", "\n", " "),
    "numbers alone, bold": said("**{}.", "", "\n", " ").replace("?", "?**"),
    "bold questions alone": said("**", "", "\n", "").replace("?", "?**"),
    "bullets": said("- Question:", "- Answer:", "\n", " "),
    "full-width colon": said("Question：", "Answer：", "\n===\n", " "),
    "user and assistant": said("User:", "Assistant:", "\n\n", " "),
    "human and AI": said("Human:", "AI:", "\n", " "),
    "a curious person and you": said("Curious person:", "You:", "\n", " "),
    "person and you": said("Person:", "You:", "\n", " "),
    "headings": said("### Question", "### Answer", "\n\n", "\n"),
    "numbered headings": said("## Question {}", "## Answer {}", "\n\n", "\n"),
    "headings with colons": said("#### Question {}:", "#### Answer:", "\n", "\n"),
    "capitals": said("QUESTION:", "ANSWER:", "\n===\n", "\n"),
    "labels alone": said("Question", "Answer", "\n\n", "\n"),
    "brackets": said("[Question]", "[Answer]", "\n", "\n"),
    "brackets, same line": said("(Q{}):", "(A{}):", "\n", " "),
    "tags": said("<question>", "<answer>", "\n", "").replace("?", "?</question>"),
    "quoted": said("> Question:", "> Answer:", "\n", " "),
    "dash": said("Question –", "Answer –", "\n", " "),
    "indented": said("  Question:", "  Answer:", "\n  ===\n", "\n"),
    "answer behind its question": said("Q:", "A:", "\n", " ").replace("?\nA:", "? A:"),
    "line ends lost": said("Question:", "Answer:", " === ", " "),
    "rules alone": said("", "", "\n===\n", ""),
    "answers without a label": said("Question:", "", "\n===\n", "\n"),
    "numbered exchanges": "Exchange 1:\n"
    + said("Q:", "A:", "\n", " ").replace("\nQ:", "\n\n**Exchange 2**\nQ:"),
    "JSON": json.dumps([{"question": q, "answer": a} for q, a in PAIRS]),
    "JSON in an object": json.dumps({"qa": [{"Question": q, "Answer": a} for q, a in PAIRS]}),
    "JSON messages": json.dumps(
        [
            {"role": role, "content": text}
            for pair in PAIRS
            for role, text in zip(("user", "assistant"), pair, strict=True)
        ]
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_common_ways_to_write_the_same_are_read(form: str) -> None:
    exchanges = parse_reply(FORMS[form])
    assert [exchange.question for exchange in exchanges] == [pair.question for pair in PAIRS]
    assert [exchange.answer for exchange in exchanges] == [pair.answer for pair in PAIRS]


DRESSES = {
    "CRLF": lambda text: text.replace("\n", "\r\n"),
    "fence": lambda text: f"```\n{text}\n```",
    "fence with a language": lambda text: f"```text\n{text}\n```\n",
    "preamble": lambda text: f"Sure! Here is the conversation:\n\n{text}",
    "preamble and remark": lambda text: f"Certainly!\n\n{text}\n\nLet me know if you want more!",
    "title": lambda text: f"## Conversation\n\n{text}",
    "zero width": lambda text: text.replace("\n", "\u200b\n"),
    "no-break": lambda text: text.replace(": ", ":\u00a0"),
    "thought": lambda text: f"<think>\nQuestion: or not?\n</think>\n{text}",
    "end token": lambda text: f"{text}<|im_end|>",
}


@pytest.mark.parametrize("dress", DRESSES)
def test_every_form_is_read_in_every_dress(dress: str) -> None:
    for form, text in FORMS.items():
        if form == "line ends lost" and dress == "zero width":
            continue
        tidied = tidy(DRESSES[dress](text))
        assert tidy(tidied.text).text == tidied.text, form
        assert parse_reply(tidied.text) == PAIRS, form


@pytest.mark.parametrize(
    "answer",
    [
        "A man, a plan.",
        "A - as the sign says - is first.",
        "You see a dog. A: is no label here.",
        "There are three:\n1. a dog\n2. a cat\n3. a cup",
        "He asks: what now? Nothing.",
        "The answer: a dog.",
        "Person and dog walk.",
        "Answering it takes a look.",
    ],
)
def test_words_of_an_answer_are_no_labels(answer: str) -> None:
    assert parse_reply(write_reply([Exchange("Who?", answer)])) == (Exchange("Who?", answer),)


def test_the_published_answers_are_read_as_they_stand() -> None:
    path = Path(__file__).parents[2].parent / "shared" / "data" / "gpt4_replies.jsonl"
    if not path.exists():
        pytest.skip("the published answers are not beside the repository (../shared/data)")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) >= 45
    for row in rows:
        pair = Exchange(row["instruction"].strip(), row["output"].strip())
        tidied = tidy(write_reply([pair]))
        assert tidied.stripped == ()
        assert parse_reply(tidied.text) == (pair,)
        assert tidy(pair.answer) == Tidied(pair.answer)
        assert faults(pair.answer) == ()
        assert foreign(pair.answer, "What is there? It is a dog that is in the park.") == ()
