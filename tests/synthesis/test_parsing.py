from __future__ import annotations

import pytest

from laterna.errors import LaternaError
from laterna.synthesis.parsing import Exchange, ReplyError, parse_reply, write_reply

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
