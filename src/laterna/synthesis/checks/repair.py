"""The words that ask a teacher to try again."""

from __future__ import annotations

from laterna.errors import LaternaError
from laterna.records import Verdict
from laterna.synthesis.checks.reasons import REASONS


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
