"""A language model judges answers, behind the teacher's protocol and ledger.

A review that is refused, cannot be read or never came is counted by what happened to it, has no
score and enters no mean. A judge that gives no review at all ends the evaluation with an error.
Each verdict is kept with the request that was sent and the version of the model that answered.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from msgspec.structs import replace

from laterna.errors import LaternaError
from laterna.evaluation.metrics import METRICS
from laterna.evaluation.metrics.base import reference, required_field
from laterna.records import Answer, Message, Question, Record
from laterna.synthesis.ledger import Ledger
from laterna.synthesis.pipeline import OrderedWork
from laterna.synthesis.refusal_detection import declines
from laterna.synthesis.settings import Endpoint, Job, Spending, check_job
from laterna.synthesis.teachers.base import NoAnswer
from laterna.synthesis.teachers.cached import CachedTeacher
from laterna.synthesis.teachers.foreign import NoReply, read_json
from laterna.synthesis.teachers.remote import open_teacher

LEDGER_NAME = "judge.sqlite"
"""File beside the cache of answers that keeps the judge's reviews."""
_AHEAD = 1024
_PAIR_SYSTEM = "You compare answers and rate their quality. Be helpful, fair and precise."
_CORRECTNESS = """\
You rate how right an answer to a question about an image is, from 0.0 (all wrong) to 1.0 (all
right), in steps of 0.1. You do not see the image: the reference says what is right. In it <AND>
means that all parts are needed, and each part that is missing costs its share; <OR> means that
any one part is enough. Wording does not matter, and true things beyond the reference cost
nothing. Write the number and nothing else.

Question: What is 3 + 4 x 2, as written on the board?
Reference: 11
Answer: The board says fourteen.
Rating: 0.0

Question: Which two animals lie on the sofa?
Reference: cat <AND> dog
Answer: A dog, and I think a rabbit.
Rating: 0.5

Question: What is the man holding?
Reference: umbrella <OR> parasol
Answer: He holds a parasol against the sun.
Rating: 1.0

Question: Why is the picture funny?
Reference: The child wears the father's shoes, which are far too large, and looks very proud.
Answer: It is funny since the shoes are much too large for the child.
Rating: 0.6
"""


class JudgePrompt(NamedTuple):
    """How a judge is asked about one answer, and the metric that reads its review."""

    metric: str
    messages: Callable[[Question, str, str], tuple[Message, ...]]
    """The request for a question, an answer, and the text of the user's own prompt, if any."""
    note: str
    """What is published of it and what is ours."""
    temperature: float
    max_tokens: int


class Judging(Record):
    """Who judges, and how it is asked."""

    model: str
    second: str = ""
    """Another judge of the same answers, or the same one again; empty: none."""
    by: str = "openai"
    """A key of `REMOTE_TEACHERS`."""
    endpoint: Endpoint = Endpoint()
    spending: Spending = Spending()
    prompt: Path | None = None
    """File of the user's own prompt, in place of ours."""


class Verdict(Record):
    """What one judge said of one answer, and all that it was sent."""

    question: str
    judge: str
    """The model that was asked."""
    version: str
    """The model as the endpoint names it in its answer; empty where it does not, or gave none."""
    messages: tuple[Message, ...]
    text: str
    outcome: str
    """`judged`, `refused`, `unparsable`, or why there is no answer."""
    score: float
    """0 to 1; not a number unless it was judged."""


class Agreement(Record):
    """How far two judges, or two runs of one, agree; over the answers that both judged."""

    first: str
    second: str
    both: int
    same: float | None
    """Share of equal scores; these figures are None over nothing."""
    difference: float | None
    """Mean distance of their scores."""
    correlation: float | None
    """Pearson's; None where one judge always says the same."""


class JudgeFigures(Record):
    """What came of the judging, as `report.json` holds it."""

    model: str
    versions: tuple[str, ...]
    prompt: str
    """SHA-256 of the first request's fixed words, hexadecimal: runs with another one differ."""
    note: str
    outcomes: dict[str, int]
    agreement: Agreement | None = None


class Judged(NamedTuple):
    """Answers with their reviews and scores, every verdict, and the figures."""

    answers: list[Answer]
    verdicts: list[Verdict]
    figures: JudgeFigures


def judge_answers(judging: Judging, name: str, answers: Sequence[Answer], ledger: Path) -> Judged:
    """Have answers judged by the prompt of this name; nothing in the ledger is asked again.

    Raises LaternaError where no request can succeed, and where no review came at all.
    """
    prompt = find_judge(name)
    own = _own_prompt(judging.prompt)
    first = _verdicts(judging, judging.model, prompt, own, answers, ledger)
    second: list[Verdict] = []
    agreement = None
    if judging.second:
        # A file of its own: the same judge's second run must not find the first one's answers.
        aside = ledger.with_stem(f"{ledger.stem}-second")
        second = _verdicts(judging, judging.second, prompt, own, answers, aside)
        agreement = agree(first, second)
    nobody = Question(id="", images=(), kind="", text="", references=("",), fields=_NO_FIELDS)
    fixed = msgspec.json.encode(prompt.messages(nobody, "", own))
    figures = JudgeFigures(
        model=judging.model,
        versions=tuple(sorted({one.version for one in first if one.version})),
        prompt=sha256(fixed).hexdigest(),
        note=f"the prompt of {judging.prompt.name}" if judging.prompt else prompt.note,
        outcomes=dict(sorted(Counter(one.outcome for one in first).items())),
        agreement=agreement,
    )
    reviewed = [
        replace(answer, review=one.text, score=one.score)
        for answer, one in zip(answers, first, strict=True)
    ]
    return Judged(reviewed, [*first, *second], figures)


def agree(first: Sequence[Verdict], second: Sequence[Verdict]) -> Agreement:
    """Compare two judges' verdicts of the same answers, in the same order."""
    pairs = [
        (one.score, other.score)
        for one, other in zip(first, second, strict=True)
        if not (math.isnan(one.score) or math.isnan(other.score))
    ]
    scores = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    distances = np.abs(scores[:, 0] - scores[:, 1])
    moved = scores - scores.mean(axis=0) if pairs else scores
    spread = math.sqrt(float(np.prod((moved**2).sum(axis=0))))
    return Agreement(
        first=first[0].judge,
        second=second[0].judge,
        both=len(pairs),
        same=float((distances < 1e-9).mean()) if pairs else None,
        difference=float(distances.mean()) if pairs else None,
        correlation=float(moved[:, 0] @ moved[:, 1]) / spread if pairs and spread else None,
    )


def find_judge(name: str) -> JudgePrompt:
    """Return the judge's prompt of exactly this name; raises LaternaError that lists the names."""
    if name not in JUDGES:
        raise LaternaError(f"{name}: no such judge's prompt; there are: {', '.join(JUDGES)}")
    return JUDGES[name]


def _own_prompt(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise LaternaError(f"{path}: the judge's prompt cannot be read: {error}") from error


def _verdicts(
    judging: Judging,
    model: str,
    prompt: JudgePrompt,
    own: str,
    answers: Sequence[Answer],
    ledger: Path,
) -> list[Verdict]:
    """Return one judge's verdict of each answer, in order."""
    temperature = judging.endpoint.temperature
    endpoint = replace(
        judging.endpoint,
        model=model,
        temperature=prompt.temperature if temperature is None else temperature,
        max_tokens=judging.endpoint.max_tokens or prompt.max_tokens,
    )
    job = Job(
        annotations=ledger,  # nothing is read from them here
        teacher=judging.by,
        endpoint=endpoint,
        spending=judging.spending,
        ledger=ledger,
    )
    check_job(job)
    with (
        Ledger(ledger, create=judging.by != "replay") as kept,
        asyncio.Runner() as runner,
        open_teacher(job, kept, runner) as teacher,
    ):

        async def judge(answer: Answer) -> Verdict:
            return await _verdict(teacher, model, prompt, own, answer)

        work = OrderedWork(iter(answers), judge, at_once=teacher.teacher.at_once, ahead=_AHEAD)
        verdicts: list[Verdict] = []
        try:
            while found := runner.run(work.next()):
                verdicts += found
        finally:
            runner.run(work.stop())
    _require_alive(model, endpoint, verdicts)
    return verdicts


async def _verdict(
    teacher: CachedTeacher, model: str, prompt: JudgePrompt, own: str, answer: Answer
) -> Verdict:
    messages = prompt.messages(answer.question, answer.text, own)
    verdict = Verdict(
        question=answer.question.id,
        judge=model,
        version="",
        messages=messages,
        text="",
        outcome="",
        score=math.nan,
    )
    try:
        reply = await teacher.complete(messages)
    except NoAnswer as error:
        return replace(verdict, outcome=error.reason)
    (score,) = METRICS[prompt.metric].score([answer.question], [reply.text])
    if not math.isnan(score):
        outcome = "judged"
    else:
        refused = reply.finish_reason == "content_filter" or declines(reply.text)
        outcome = "refused" if refused else "unparsable"
    version = _version(reply.body)
    return replace(verdict, version=version, text=reply.text, outcome=outcome, score=score)


def _version(body: bytes) -> str:
    try:
        found = read_json(body) if body else None
    except NoReply:
        return ""
    named = found.get("model") if isinstance(found, dict) else None
    return named if isinstance(named, str) else ""


def _require_alive(model: str, endpoint: Endpoint, verdicts: Sequence[Verdict]) -> None:
    """Raise LaternaError where no review came at all: that is no score, and not a bad one."""
    if not verdicts or any(one.text for one in verdicts):
        return
    reasons = Counter(one.outcome for one in verdicts)
    told = "; ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
    raise LaternaError(
        f"{endpoint.base_url}: the judge {model} gave no review of any of {len(verdicts)} answers "
        f"({told}); nothing was scored. What the assistant said is kept: see that the judge "
        "answers, and run again"
    )


def _pair(question: Question, answer: str, own: str) -> tuple[Message, ...]:
    """Return LLaVA-Bench's request: the order of its script, the rule of the user's rule.json."""
    role, rule = required_field(question, "role"), own or required_field(question, "rule")
    parts = [
        f"[Context]\n{required_field(question, 'context')}",
        f"[Question]\n{question.text}",
        f"[{role} 1]\n{reference(question)}",
        f"[End of {role} 1]",
        f"[{role} 2]\n{answer}",
        f"[End of {role} 2]",
        f"[System]\n{rule}",
    ]
    text = "".join(f"{part}\n\n" for part in parts)
    return Message(role="system", content=_PAIR_SYSTEM), Message(role="user", content=text)


def _correctness(question: Question, answer: str, own: str) -> tuple[Message, ...]:
    """Return MM-Vet's request: in the published form with the user's prompt, else in ours."""
    truth = reference(question)
    if own:
        truth = truth.replace("<AND>", " <AND> ").replace("<OR>", " <OR> ")
        row = " | ".join((question.text, truth, answer, ""))
        return (Message(role="user", content=f"{own}\n{row}"),)
    text = (
        f"{_CORRECTNESS}\nQuestion: {question.text}\nReference: {truth}\nAnswer: {answer}\nRating:"
    )
    return (Message(role="user", content=text),)


_NO_FIELDS = {"context": "", "role": "", "rule": ""}

JUDGES: dict[str, JudgePrompt] = {
    "llava_bench": JudgePrompt(
        metric="llava_bench",
        messages=_pair,
        note="rules of the user's rule.json, in the order of LLaVA's eval_gpt_review_bench.py; "
        "the system message is ours",
        temperature=0.2,
        max_tokens=1024,
    ),
    "mm_vet": JudgePrompt(
        metric="mm_vet",
        messages=_correctness,
        note="our own prompt, not the published one: scores cannot be set beside published ones",
        temperature=0.0,
        max_tokens=16,
    ),
}
"""Name to how a judge is asked (`Task.judge`)."""
