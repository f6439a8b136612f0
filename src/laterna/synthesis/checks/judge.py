"""A language model lists what a reply claims; boxes and captions decide it.

The judge decides nothing itself. It is asked behind the teacher's protocol, through ledger and
budget, once a reply, and writes each claim as typed JSON: what kind it is, of which of the
image's categories, and in which mood. Only what is told as seen is held against the boxes. What
it quotes that the reply does not say is dropped and counted; a judge's failure is counted too, and
is never a verdict.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Literal

import msgspec

from laterna.errors import LaternaError
from laterna.records import Finding, Message, Record, Reply, Scene, Usage, Verdict
from laterna.scenes.vocabulary import COLOURS, words_of
from laterna.synthesis.checks.claims import contradict, decide_count
from laterna.synthesis.checks.evidence import Evidence, gather_evidence
from laterna.synthesis.checks.positions import is_place, ruled_out
from laterna.synthesis.checks.sentences import read_number
from laterna.synthesis.ledger import Ledger
from laterna.synthesis.pipeline import OrderedWork
from laterna.synthesis.prompts import read_prompt
from laterna.synthesis.settings import Endpoint, Job, check_job
from laterna.synthesis.teachers.base import NoAnswer, Teacher
from laterna.synthesis.teachers.cached import CachedTeacher
from laterna.synthesis.teachers.foreign import estimate_tokens
from laterna.synthesis.teachers.remote import open_teacher

ClaimKind = Literal["exists", "absent", "count", "side", "vertical", "place", "attribute", "action"]
Mood = Literal["seen", "inferred", "purpose", "likeness", "generic"]
OTHER = "other"

_SYSTEM = read_prompt("judge")
_CATEGORY_TOKENS = 12
_CLAIMS_A_REPLY = 2.2
"""Tokens of claims for each token of a reply, with one claim a sentence."""


class Claim(msgspec.Struct, forbid_unknown_fields=True):
    """One claim, as the judge writes it."""

    sentence: str
    kind: ClaimKind
    subject: str
    object: str
    value: str
    mood: Mood


class Claims(msgspec.Struct, forbid_unknown_fields=True):
    """All claims of a reply."""

    claims: list[Claim]


class Judgement(Record):
    """What came of the claims of one reply."""

    findings: tuple[Finding, ...] = ()
    decided: int = 0
    """Claims that boxes or captions decide."""
    undecided: int = 0
    """Claims told as seen that they do not decide."""
    unclaimed: int = 0
    """Claims in another mood: they say nothing of the image."""
    dropped: tuple[str, ...] = ()
    """Why claims were dropped, one reason a claim."""
    failure: str = ""
    """Why there is no judgement."""

    @property
    def verdict(self) -> Verdict:
        """What was decided, in the form of the rules' own verdict."""
        return Verdict(findings=self.findings, checked=self.decided, unchecked=self.undecided)


class Judge:
    """Asks for the claims of replies and decides them; `counts` gathers what came of it."""

    def __init__(self, teacher: Teacher) -> None:
        self._teacher = teacher
        self.counts: Counter[str] = Counter()

    @property
    def outcomes(self) -> dict[str, int]:
        """What came of the replies, by outcome."""
        return dict(sorted(self.counts.items()))

    async def judge(self, scene: Scene, reply: Reply) -> Judgement:
        """Return the judgement of a reply; one with a `failure` where the judge gave none."""
        evidence = gather_evidence(scene)
        try:
            answer = await self._teacher.complete(judge_messages(evidence, reply))
            claims = read_claims(answer.text)
        except (NoAnswer, msgspec.MsgspecError) as error:
            wrong = "no claims in the form asked for"
            failure = error.reason if isinstance(error, NoAnswer) else wrong
            self.counts[f"failed: {failure}"] += 1
            return Judgement(failure=failure)
        found = decide(claims, evidence, reply)
        self.counts["replies judged"] += 1
        self.counts.update(f"claims dropped: {reason}" for reason in found.dropped)
        return found

    async def add_to(self, verdict: Verdict, scene: Scene, reply: Reply) -> Verdict:
        """Return a verdict of the rules with the judge's findings, and its claims for theirs.

        What the rules rejected is not judged: that would be paid for nothing.
        """
        if not verdict.accepted:
            return verdict
        found = await self.judge(scene, reply)
        return verdict if found.failure else found.verdict


def judge_endpoint(endpoint: Endpoint, model: str) -> Endpoint:
    """Return the teacher's endpoint as the judge is asked at it: another model, claims as JSON."""
    form = msgspec.json.encode(_response_format()).decode()
    parameters = (*endpoint.parameters, f"response_format={form}")
    return msgspec.structs.replace(endpoint, model=model, parameters=parameters)


def judging_usage(replies: int, tokens: int) -> Usage:
    """Return about how many tokens it takes to judge replies of so many tokens in all.

    The request holds the system message, some categories and the reply; the answer repeats every
    sentence with its claim. Both factors are those of the 45 published replies (docs/synthesis.md).
    """
    asked = (Message(role="system", content=_SYSTEM), Message(role="user", content=""))
    frame = estimate_tokens(asked) + _CATEGORY_TOKENS
    return Usage(
        prompt_tokens=replies * frame + tokens, completion_tokens=round(tokens * _CLAIMS_A_REPLY)
    )


def judge_messages(evidence: Evidence, reply: Reply) -> tuple[Message, ...]:
    """Return the request for a reply's claims."""
    categories = ", ".join((*sorted(evidence.held), OTHER))
    asked = f"Categories: {categories}\n\nText:\n{reply.text.strip()}"
    return Message(role="system", content=_SYSTEM), Message(role="user", content=asked)


def read_claims(text: str) -> list[Claim]:
    """Return the claims in a judge's answer; raise msgspec's errors where it holds none."""
    start, end = text.find("{"), text.rfind("}")
    return msgspec.json.decode(text[start : end + 1].encode() or b"-", type=Claims).claims


def decide(claims: Sequence[Claim], evidence: Evidence, reply: Reply) -> Judgement:
    """Hold claims against boxes and captions."""
    said = " ".join(reply.text.split())
    findings: dict[Finding, None] = {}
    counted: Counter[str] = Counter()
    dropped = []
    for claim in claims:
        reason = _unusable(claim, said, evidence)
        if reason:
            dropped.append(reason)
        elif claim.mood != "seen":
            counted["unclaimed"] += 1
        else:
            found = _decide(claim, evidence)
            counted["undecided" if found is None else "decided"] += 1
            if found:
                findings[Finding(reason=found[0], sentence=claim.sentence, detail=found[1])] = None
    return Judgement(
        findings=tuple(findings),
        decided=counted["decided"],
        undecided=counted["undecided"],
        unclaimed=counted["unclaimed"],
        dropped=tuple(dropped),
    )


def _unusable(claim: Claim, said: str, evidence: Evidence) -> str:
    quoted = " ".join(claim.sentence.split())
    if not quoted or quoted not in said:
        return "it quotes what the reply does not say"
    named = (claim.subject, *([claim.object] if claim.object else []))
    if any(name != OTHER and name not in evidence.held for name in named):
        return "it names a category that was not offered"
    return ""


_Fault = tuple[str, str] | tuple[()]
"""Reason and detail of what is wrong; empty where the claim holds."""


def _decide(claim: Claim, evidence: Evidence) -> _Fault | None:
    """Return what is wrong with a claim, nothing where it holds, None where nothing decides it."""
    subject, value = claim.subject, claim.value.strip().lower()
    if claim.kind in ("exists", "absent") and subject == OTHER:
        return _named(claim.kind, value, evidence)
    if subject == OTHER or claim.object == OTHER or claim.kind == "action":
        return None
    if claim.kind == "exists":
        return ()
    if claim.kind == "absent":
        # "No dog on the couch" is no claim that there is none: only boxes that say so are enough
        return None
    if claim.kind == "count":
        return _count(subject, value, evidence)
    if claim.kind == "attribute":
        told, said = evidence.colours.get(subject), COLOURS.intersection(words_of(value))
        if not told or not said or subject == "person":
            return None
        detail = f"the {subject} is {' and '.join(sorted(told))}, not {value}"
        return ("wrong colour", detail) if contradict(said, told) else ()
    return _position(claim, value, evidence)


def _named(kind: str, noun: str, evidence: Evidence) -> _Fault | None:
    """Decide whether a thing of none of the image's categories can be there."""
    named = evidence.words.categories(noun)
    if not named or named & evidence.held or named & evidence.possible:
        return None
    if kind == "absent":
        return ()
    return "absent object", f"{noun!r}: no {min(named)} is known to be in the picture"


def _count(subject: str, value: str, evidence: Evidence) -> _Fault | None:
    number, claimed = evidence.numbers.get(subject), read_number(value)
    if number is None or claimed is None:
        return None
    decided = decide_count(claimed, number)
    if decided is None:
        return None
    detail = f"{claimed} {subject} told, where there are {number.least}"
    return () if decided else ("wrong count", detail)


def _position(claim: Claim, value: str, evidence: Evidence) -> _Fault | None:
    subject, other = claim.subject, claim.object or None
    if subject not in evidence.boxes or subject == other or not is_place(value, other is not None):
        return None
    if other is not None and other not in evidence.boxes:
        return None
    to = f" of {other}" if other else ""
    wrong = ruled_out(evidence, subject, other, value)
    return ("wrong position", f"the boxes rule out a {subject} {value}{to}") if wrong else ()


@cache
def _response_format() -> dict[str, object]:
    """Return the form that the endpoint is to hold its answer to."""
    _, parts = msgspec.json.schema_components([Claims], ref_template="#/$defs/{name}")
    schema = {**parts.pop("Claims"), "$defs": parts}
    return {
        "type": "json_schema",
        "json_schema": {"name": "claims", "strict": True, "schema": schema},
    }


_AHEAD = 1024


@contextmanager
def open_judge(
    job: Job, ledger: Ledger, runner: asyncio.Runner
) -> Iterator[tuple[Judge | None, CachedTeacher | None]]:
    """Give the judge of a job and whom it asks, behind the ledger; None where it names none."""
    if not job.judge:
        yield None, None
        return
    endpoint = judge_endpoint(job.endpoint, job.judge)
    with open_teacher(msgspec.structs.replace(job, endpoint=endpoint), ledger, runner) as asked:
        yield Judge(asked), asked


def judge_replies(
    job: Job, replies: Sequence[tuple[Scene, Reply]]
) -> tuple[list[Judgement], dict[str, int]]:
    """Return a judgement for each reply, in order, and what came of them by outcome.

    The job names the judge, how it is asked, and the ledger that keeps its answers.
    """
    check_job(job)
    if job.ledger is None:
        raise LaternaError("a judge needs a ledger: name the file with --ledger")
    with (
        Ledger(job.ledger, create=job.teacher != "replay") as ledger,
        asyncio.Runner() as runner,
        open_judge(job, ledger, runner) as (judge, asked),
    ):
        assert judge and asked  # check_job saw to it that the job names one

        async def ask(one: tuple[Scene, Reply]) -> Judgement:
            return await judge.judge(*one)

        work = OrderedWork(iter(replies), ask, at_once=asked.teacher.at_once, ahead=_AHEAD)
        judgements: list[Judgement] = []
        try:
            while found := runner.run(work.next()):
                judgements += found
        finally:
            runner.run(work.stop())
        return judgements, judge.outcomes
