"""Why a reply may not become training data, what a check makes of a sentence, and asking again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from laterna.errors import LaternaError
from laterna.records import Finding, Verdict

REASONS: dict[str, str] = {
    "unparsable": "the reply is not in the form that was asked for",
    "truncated": "the teacher stopped before the end of its reply",
    "not finished": "the endpoint ended the reply for another reason than that it was whole",
    "unclosed thought": "it holds a thought that never ends in an answer",
    "special token": "it holds a model's own marks, which are no text",
    "thinking aloud": "it thinks about the request instead of answering it",
    "gibberish": "it is no language, or repeats itself without end",
    "foreign language": "it is in another language than the request",
    "no answer": "the reply is empty, or an apology instead of an answer",
    "not declined": "it answers a request that it was asked to write a polite refusal of",
    "source leak": "it tells that the picture was read and not seen",
    "given away": "a question of reasoning tells what is to be seen",
    "absent object": "it names an object that neither boxes nor captions hold",
    "denied object": "it says that an object is absent which boxes or captions hold",
    "wrong count": "it tells a number that boxes and captions rule out",
    "wrong position": "it tells a place or relation that the boxes rule out",
    "wrong colour": "it gives a thing a colour that captions contradict",
    "near-duplicate": "an earlier reply says almost the same",
}
"""Reason to what it means; the keys are `Finding.reason`."""


class Outcome(NamedTuple):
    """Findings, and how many claims could and could not be held against the proxy."""

    findings: tuple[Finding, ...] = ()
    checked: int = 0
    unchecked: int = 0


def total(outcomes: Iterable[Outcome]) -> Outcome:
    """Return several outcomes as one."""
    many = list(outcomes)
    return Outcome(
        findings=tuple(finding for one in many for finding in one.findings),
        checked=sum(one.checked for one in many),
        unchecked=sum(one.unchecked for one in many),
    )


def repair_message(verdict: Verdict) -> str:
    """Return the user message that follows a rejected reply: what was wrong, and the request.

    Raises LaternaError for a verdict without findings: there is nothing to repair.
    """
    if verdict.accepted:
        raise LaternaError("the reply was accepted: there is nothing to ask the teacher again")
    lines = ["Your reply cannot be used:"]
    for finding in verdict.findings:
        why = REASONS.get(finding.reason, finding.reason)
        quote = f' In "{_short(finding.sentence)}":' if finding.sentence else ""
        detail = f" {finding.detail}" if finding.detail else ""
        lines.append(f"- {why}.{quote}{detail}".rstrip(":"))
    lines.append(
        "Write the whole reply again in the same form, without these faults. Say only what "
        "surely holds, as someone who sees the picture, and do not mention this request."
    )
    return "\n".join(lines)


def _short(sentence: str) -> str:
    words = " ".join(sentence.split())
    return words if len(words) <= 200 else f"{words[:200]}…"
