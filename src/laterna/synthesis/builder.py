"""One image and one kind of record at a time: proxy, request, reply, checks, record."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from laterna.records import (
    DEFAULT_IMAGE_TOKEN,
    Finding,
    InstructionRecord,
    Kind,
    Message,
    Provenance,
    Proxy,
    Record,
    Reply,
    Scene,
    Turn,
    Verdict,
)
from laterna.scenes.sampling import pick
from laterna.synthesis.checks import check
from laterna.synthesis.checks.form import read_exchanges
from laterna.synthesis.checks.judge import Judge
from laterna.synthesis.checks.verdicts import repair_message
from laterna.synthesis.enrichment import ImageError
from laterna.synthesis.parsing import Exchange
from laterna.synthesis.prompts import build_messages, detail_questions
from laterna.synthesis.proxy import build_proxy, proxy_digest
from laterna.synthesis.settings import Job
from laterna.synthesis.teachers.base import NoAnswer, Teacher
from laterna.synthesis.tidying import foreign, tidy

CAPTION_QUESTION = "Describe the image in brief."
"""Stands before the captions of stage 1; the `plain` template leaves it out."""


class Task(NamedTuple):
    """One kind of record of one image."""

    number: int
    """Place of the image in the source, whatever shard it is in."""
    scene: Scene
    kind: Kind


class Reject(Record):
    """A reply that was not used, and why: one line of the file of rejects."""

    id: str
    kind: Kind
    ledger_key: str | None
    verdict: Verdict


class BuildResult(Record):
    """What came of a task: records, or the reason why there is none."""

    number: int
    scene: str
    kind: Kind
    records: tuple[InstructionRecord, ...] = ()
    problem: str = ""
    """Why there is no record; a reason that is counted."""
    rejects: tuple[Reject, ...] = ()
    """All replies that were not used, those that a repair mended included."""
    checked: int = 0
    unchecked: int = 0
    stripped: tuple[str, ...] = ()
    """What was taken off around the answer, by name."""


class RecordBuilder:
    """Makes results of tasks; `key_of` gives the ledger's key of a request, where there is one.

    A `judge` is asked about every reply that the rules accept.
    """

    def __init__(
        self,
        job: Job,
        teachers: Mapping[Kind, Teacher],
        key_of: Callable[[Sequence[Message]], str] | None = None,
        judge: Judge | None = None,
    ) -> None:
        self._judge = judge
        self._job = job
        self._teachers = teachers
        self._key_of = key_of

    def tasks(self, scenes: Iterator[tuple[int, Scene]]) -> Iterator[Task]:
        """Yield the tasks of numbered scenes: captions first, then the kinds as they were asked."""
        kinds = sorted(self._job.kinds, key=lambda kind: kind != "caption")
        for number, scene in scenes:
            for kind in kinds:
                yield Task(number, scene, kind)

    def request(self, task: Task) -> tuple[Proxy, tuple[Message, ...]]:
        """Return what the teacher is shown of an image, and the whole first request."""
        job = self._job
        proxy = build_proxy(
            task.scene,
            task.kind,
            conversation_boxes=job.conversation_boxes,
            enrichments=job.enrich,
            images=job.images,
        )
        return proxy, build_messages(task.kind, proxy.text, job.prompts)

    async def make(self, task: Task) -> BuildResult:
        """Return the result of a task."""
        scene, kind = task.scene, task.kind
        if kind == "caption":
            return _result(task, records=tuple(_caption_records(scene)))
        try:
            proxy, messages = self.request(task)
        except ImageError:
            return _result(task, problem="image cannot be measured")
        if not proxy.text:
            return _result(task, problem="nothing to show the teacher")
        rejects: list[Reject] = []
        for _ in range(self._job.repair + 1):
            try:
                reply = await self._teachers[kind].complete(messages)
            except NoAnswer as error:
                finding = Finding(reason=error.reason, sentence="", detail=error.detail)
                rejects.append(self._reject(task, messages, Verdict(findings=(finding,))))
                return _result(task, problem=error.reason, rejects=tuple(rejects))
            if not reply.text and self._key_of is None:
                return _result(task, problem="nothing certain to say", rejects=tuple(rejects))
            tidied = tidy(reply.text)
            clean = msgspec.structs.replace(reply, text=tidied.text)
            exchanges = read_exchanges(clean, kind)
            verdict = _check(scene, clean, kind, exchanges, messages)
            if self._judge:
                verdict = await self._judge.add_to(verdict, scene, clean)
            if verdict.accepted and isinstance(exchanges, tuple):
                key = self._key_of(messages) if self._key_of else None
                record = self._record(task, proxy, exchanges, key)
                return _result(
                    task,
                    records=(record,),
                    rejects=tuple(rejects),
                    checked=verdict.checked,
                    unchecked=verdict.unchecked,
                    stripped=tidied.stripped,
                )
            rejects.append(self._reject(task, messages, verdict))
            messages = (*messages, *_repair(reply, verdict))
        reason = rejects[-1].verdict.findings[0].reason
        return _result(task, problem=reason, rejects=tuple(rejects))

    def _reject(self, task: Task, messages: Sequence[Message], verdict: Verdict) -> Reject:
        key = self._key_of(messages) if self._key_of else None
        return Reject(id=record_id(task), kind=task.kind, ledger_key=key, verdict=verdict)

    def _record(
        self, task: Task, proxy: Proxy, exchanges: tuple[Exchange, ...], key: str | None
    ) -> InstructionRecord:
        digest = proxy_digest(proxy.text)
        rng = np.random.default_rng([self._job.seed, int(digest[:16], 16)])
        if task.kind == "detail":
            asked = pick(detail_questions(self._job.prompts), rng)
            exchanges = (Exchange(asked, exchanges[0].answer),)
        return InstructionRecord(
            id=record_id(task),
            images=(task.scene.image,),
            turns=_turns(exchanges, mark_first=bool(rng.integers(2))),
            kind=task.kind,
            provenance=Provenance(
                teacher=self._job.teacher,
                proxy_digest=digest,
                channels=proxy.channels,
                ledger_key=key,
            ),
        )


def _result(task: Task, **what: Any) -> BuildResult:
    return BuildResult(number=task.number, scene=task.scene.id, kind=task.kind, **what)


def _check(
    scene: Scene,
    reply: Reply,
    kind: Kind,
    exchanges: tuple[Exchange, ...] | Finding,
    messages: Sequence[Message],
) -> Verdict:
    """Return what is wrong with a tidied reply to these messages, of these exchanges."""
    if isinstance(exchanges, tuple):
        request = "\n".join(message.content for message in messages)
        for said in zip(*exchanges, strict=True):  # the questions, then the answers
            strange = foreign("\n".join(said), request)
            if strange:
                return Verdict(findings=strange)
    return check(scene, reply, kind)


def record_id(task: Task) -> str:
    """Return the id of the record that a task makes."""
    return f"{task.scene.id}-{task.kind}"


def _repair(reply: Reply, verdict: Verdict) -> tuple[Message, Message]:
    # As it came: what was asked of an earlier version is found in the ledger under these words.
    # Endpoints refuse messages without content.
    said = reply.text or "(nothing)"
    return (
        Message(role="assistant", content=said),
        Message(role="user", content=repair_message(verdict)),
    )


def _turns(exchanges: tuple[Exchange, ...], *, mark_first: bool) -> tuple[Turn, ...]:
    """Return the chat; the image stands before or after the first question."""
    turns = []
    for number, (question, answer) in enumerate(exchanges):
        text = question
        if number == 0:
            text = (
                f"{DEFAULT_IMAGE_TOKEN}\n{text}" if mark_first else f"{text}\n{DEFAULT_IMAGE_TOKEN}"
            )
        turns += [Turn(role="user", text=text), Turn(role="assistant", text=answer, loss=True)]
    return tuple(turns)


def _caption_records(scene: Scene) -> Iterator[InstructionRecord]:
    for number, caption in enumerate(scene.captions):
        yield InstructionRecord(
            id=f"{scene.id}-caption-{number}",
            images=(scene.image,),
            turns=_turns((Exchange(CAPTION_QUESTION, caption.strip()),), mark_first=True),
            kind="caption",
        )
