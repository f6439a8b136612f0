"""Checks a file of replies against a file of what the teacher was shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec

from laterna.errors import LaternaError
from laterna.files import write_atomically, write_lines
from laterna.records import Finding, Kind, Record, Reply, Scene, Verdict
from laterna.scenes.annotations import read_annotations
from laterna.synthesis.checks.checker import check
from laterna.synthesis.checks.duplicates import NearDuplicates
from laterna.synthesis.checks.form import BARE_KINDS
from laterna.synthesis.checks.judge import Judgement, judge_replies
from laterna.synthesis.parsing import Exchange, write_reply
from laterna.synthesis.settings import Job

_KIND_OF_TYPE: dict[str, Kind] = {
    "conv": "conversation",
    "detail": "detail",
    "complex": "reasoning",
}
"""LLaVA's names of the kinds in its published answers."""


class CheckedReply(Record):
    """One line of the verdicts' file."""

    id: str
    kind: Kind
    accepted: bool
    findings: tuple[Finding, ...]
    checked: int
    unchecked: int
    judgement: Judgement | None = None
    """What came of the claims that a judge listed; None without one."""


class CheckSummary(Record):
    """What the check of a file found."""

    out: str
    replies: int
    accepted: int
    reasons: dict[str, int]
    """Rejected replies by the first reason."""
    checked: int
    unchecked: int
    rejected: tuple[str, ...]
    """One line a rejected reply, for a person."""
    problems: tuple[str, ...]
    """Replies whose context is missing."""
    judged: dict[str, int] = msgspec.field(default_factory=dict)
    """What came of the replies that a judge was asked about, by outcome."""

    def line(self) -> str:
        """Return the summary as one line."""
        reasons = ", ".join(f"{number} {reason}" for reason, number in self.reasons.items())
        rejected = f"{self.replies - self.accepted} rejected" + (f" ({reasons})" if reasons else "")
        missing = f"; {len(self.problems)} not checked: no context" if self.problems else ""
        outcomes = ", ".join(f"{number} {outcome}" for outcome, number in self.judged.items())
        judged = f"; judge: {outcomes}" if outcomes else ""
        return (
            f"checked {self.replies} replies: {self.accepted} accepted, {rejected}; {self.checked} "
            f"claims checked, {self.unchecked} could not be{missing}{judged}; made {self.out}"
        )


class _OurReply(msgspec.Struct):
    id: str | int
    kind: Kind
    text: str
    finish_reason: str = "stop"


class _PublishedReply(msgspec.Struct):
    id: str | int
    instruction: str
    output: str
    type: str


def check_files(
    contexts: Path, replies: Path, out: Path, judging: Job | None = None
) -> CheckSummary:
    """Write a verdict for each reply to `out`, in order; near-repeats of earlier ones included.

    `judging` names the judge, how it is asked and where its answers are kept; None: the rules
    alone. Raises LaternaError where a file is missing or in no known form, and where no reply has
    a context.
    """
    scenes = {scene.id: scene for scene in read_annotations(contexts).scenes}
    seen: dict[Kind, NearDuplicates] = {}
    lines: list[CheckedReply] = []
    problems: list[str] = []
    to_judge: list[tuple[Scene, Reply]] = []
    for where, name, kind, reply in _read_replies(replies):
        if name not in scenes:
            problems.append(f"{where}: no context of id {name}")
            continue
        verdict = check(scenes[name], reply, kind)
        if seen.setdefault(kind, NearDuplicates()).add(reply.text):
            detail = "it nearly repeats an earlier reply of its kind"
            repeat = Finding(reason="near-duplicate", sentence=reply.text[:200], detail=detail)
            verdict = msgspec.structs.replace(verdict, findings=(*verdict.findings, repeat))
        lines.append(_line(name, kind, verdict))
        if verdict.accepted:
            to_judge.append((scenes[name], reply))
    if not lines:
        raise LaternaError(
            f"{replies}: no reply has a context in {contexts}; are the ids the same?"
        )
    judged: dict[str, int] = {}
    if judging is not None:
        judgements, judged = judge_replies(judging, to_judge)
        found = iter(judgements)
        lines = [_judged(line, next(found)) if line.accepted else line for line in lines]
    with write_atomically(out) as aside:
        write_lines(aside, lines)
    return _summary(out, lines, problems, judged)


def _line(
    name: str, kind: Kind, verdict: Verdict, judgement: Judgement | None = None
) -> CheckedReply:
    return CheckedReply(
        id=name,
        kind=kind,
        accepted=verdict.accepted,
        judgement=judgement,
        **msgspec.structs.asdict(verdict),
    )


def _judged(line: CheckedReply, judgement: Judgement) -> CheckedReply:
    """Return the line of an accepted reply with what its claims came to."""
    if judgement.failure:  # it is no verdict: that of the rules stands
        return msgspec.structs.replace(line, judgement=judgement)
    return _line(line.id, line.kind, judgement.verdict, judgement)


def _summary(
    out: Path, lines: list[CheckedReply], problems: list[str], judged: dict[str, int]
) -> CheckSummary:
    rejected = [line for line in lines if not line.accepted]
    reasons = Counter(line.findings[0].reason for line in rejected)
    return CheckSummary(
        out=str(out),
        replies=len(lines),
        accepted=len(lines) - len(rejected),
        reasons=dict(reasons.most_common()),
        checked=sum(line.checked for line in lines),
        unchecked=sum(line.unchecked for line in lines),
        rejected=tuple(
            f"{line.id}, {line.kind}: {found.reason}: {found.detail}"
            for line in rejected
            for found in line.findings[:1]
        ),
        problems=tuple(problems),
        judged=judged,
    )


def _read_replies(path: Path) -> Iterator[tuple[str, str, Kind, Reply]]:
    """Yield where a reply stands, the id of its scene, its kind, and the reply."""
    if not path.is_file():
        raise LaternaError(f"{path}: no such file of replies")
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                where = f"{path} line {number}"
                yield where, *_read_reply(line, where)


def _read_reply(line: bytes, where: str) -> tuple[str, Kind, Reply]:
    try:
        found = msgspec.json.decode(line, type=dict[str, msgspec.Raw])
        if "output" in found:
            return _published(msgspec.json.decode(line, type=_PublishedReply), where)
        ours = msgspec.json.decode(line, type=_OurReply)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise LaternaError(
            f"{where}: neither a reply (id, kind, text) nor a published answer "
            f"(id, instruction, output, type): {error}"
        ) from error
    return str(ours.id), ours.kind, Reply(text=ours.text, finish_reason=ours.finish_reason)


def _published(found: _PublishedReply, where: str) -> tuple[str, Kind, Reply]:
    if found.type not in _KIND_OF_TYPE:
        known = ", ".join(_KIND_OF_TYPE)
        raise LaternaError(f"{where}: unknown type of answer {found.type!r}; known are: {known}")
    kind = _KIND_OF_TYPE[found.type]
    text = found.output
    if kind not in BARE_KINDS:
        text = write_reply([Exchange(found.instruction, found.output)])
    return str(found.id), kind, Reply(text=text, finish_reason="stop")
