"""Runs a job in this process: the scenes of its shard in, drafts out, in the scenes' order."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator

import msgspec

from laterna.errors import LaternaError
from laterna.records import Kind, Record, Scene
from laterna.scenes.annotations import Problem, stream_scenes
from laterna.synthesis.checks.judge import judging_usage
from laterna.synthesis.checks.judging import OpenJudge
from laterna.synthesis.cost import Forecast, Prices, Purse
from laterna.synthesis.ledger import Ledger
from laterna.synthesis.pipeline import OrderedWork
from laterna.synthesis.settings import Job
from laterna.synthesis.teachers import make_teacher
from laterna.synthesis.teachers.asked import ASKED_TEACHERS, is_asked, open_purse, open_teacher
from laterna.synthesis.teachers.base import AskedTeacher, Identity, Teacher, request_key
from laterna.synthesis.teachers.recorded import Recorded
from laterna.synthesis.workshop import Draft, Task, Workshop

_AHEAD = 8192
"""Drafts that may wait for an earlier one: a minute of a busy endpoint's answers, about 40 MB."""


class Calls(Record):
    """What the requests of a run came to."""

    asked: int = 0
    """Requests that this run paid for."""
    found: int = 0
    """Requests that the ledger had the answer to."""
    retries: dict[str, int] = msgspec.field(default_factory=dict)
    """Calls that failed, those that were tried again included, by reason."""
    judged: dict[str, int] = msgspec.field(default_factory=dict)
    """What came of the replies that a judge was asked about, by outcome."""
    said: dict[str, str] = msgspec.field(default_factory=dict)
    """What the endpoint said first of each of these reasons."""
    estimated: int = 0
    """Calls of the whole ledger whose tokens are counted by estimate."""
    spent: float | None = None
    """US dollars that the whole ledger comes to; None where the price is not known."""

    def __add__(self, other: Calls) -> Calls:
        """Return the calls of two shards together."""
        known = self.spent is not None and other.spent is not None
        return Calls(
            asked=self.asked + other.asked,
            found=self.found + other.found,
            retries=dict(Counter(self.retries) + Counter(other.retries)),
            judged=dict(Counter(self.judged) + Counter(other.judged)),
            said=other.said | self.said,
            estimated=self.estimated + other.estimated,
            spent=(self.spent or 0.0) + (other.spent or 0.0) if known else None,
        )

    def line(self) -> str:
        """Return what was asked, what failed and what it cost, as one line."""
        failed = self._failed()
        line = f"asked {self.asked}, answered before {self.found}"
        line += f"; calls that failed: {failed}" if failed else ""
        judged = ", ".join(f"{number} {outcome}" for outcome, number in self.judged.items())
        line += f"; judge: {judged}" if judged else ""
        line += f"; ${self.spent:,.4f} in all" if self.spent is not None else ""
        told = f"{self.estimated} calls by estimate, as the endpoint did not say their tokens"
        return line + (f" ({told})" if self.estimated else "")

    def _failed(self) -> str:
        """Return the failed calls by reason, with what was said first of each."""
        return "; ".join(
            f'{number} {reason} ("{self.said[reason]}")'
            if reason in self.said
            else f"{number} {reason}"
            for reason, number in sorted(self.retries.items())
        )


class Run:
    """One job in this process.

    `drafts` may be gone through once; `problems` of the annotations and `calls` are whole
    afterwards.
    """

    def __init__(self, job: Job) -> None:
        """Prepare; raise LaternaError for an unknown teacher."""
        self._job = job
        self._asked = is_asked(job.teacher)
        self.problems: list[Problem] = []
        self.calls: Calls | None = None

    def drafts(self) -> Iterator[Draft]:
        """Yield the drafts in order, few of them in memory at a time."""
        if not self._asked:
            yield from self._compose()
            return
        if self._job.ledger is None:
            raise LaternaError(f"the teacher {self._job.teacher!r} needs a ledger")
        with Ledger(self._job.ledger, create=self._job.teacher != "replay") as ledger:
            yield from self._ask(ledger)

    def _compose(self) -> Iterator[Draft]:
        """Yield the drafts of a teacher that works here, at no cost."""
        job = self._job
        scenes = tuple(_scenes(job, self.problems))
        annotated = {box.category for scene in scenes for box in scene.boxes}
        teachers: dict[Kind, Teacher] = {
            kind: make_teacher(job.teacher, kind, annotated, job.seed)
            for kind in job.kinds
            if kind != "caption"
        }
        workshop = Workshop(job, teachers)
        with asyncio.Runner() as runner:
            for task in workshop.tasks(self._mine(iter(scenes))):
                yield runner.run(workshop.make(task))

    def _ask(self, ledger: Ledger) -> Iterator[Draft]:
        """Yield the drafts of a teacher whose answers are kept in a ledger."""
        job = self._job
        purse = open_purse(job, ledger)
        with asyncio.Runner() as runner, OpenJudge(job, ledger, runner) as judging:
            recorded, teacher = runner.run(_open(job, ledger, purse))
            teachers = dict.fromkeys(job.kinds, recorded)
            workshop = Workshop(job, teachers, recorded.key, judging.judge)
            scenes = _scenes(job, self.problems)
            tasks = workshop.tasks(self._mine(scenes))
            work = OrderedWork(tasks, workshop.make, at_once=teacher.at_once, ahead=_AHEAD)
            try:
                while drafts := runner.run(work.next()):
                    yield from drafts
            finally:
                runner.run(_close(work, teacher))
                ledger.refresh()
                self.calls = Calls(
                    asked=recorded.asked + judging.asked,
                    found=recorded.found + judging.found,
                    judged=judging.counts,
                    retries=dict(teacher.failures.counts),
                    said=teacher.failures.said,
                    estimated=purse.estimated(),
                    spent=purse.spent(),
                )

    def _mine(self, scenes: Iterator[Scene]) -> Iterator[tuple[int, Scene]]:
        """Number the scenes of the whole source; pass on those of this shard."""
        return (pair for pair in enumerate(scenes) if self._job.shard.holds(pair[0]))


def _scenes(job: Job, problems: list[Problem]) -> Iterator[Scene]:
    return stream_scenes(
        job.annotations,
        job.captions,
        problems,
        captionless=job.captionless,
        format=job.format,
        pictures=job.pictures,
        view=job.view,
    )


async def _open(job: Job, ledger: Ledger, purse: Purse) -> tuple[Recorded, AskedTeacher]:
    return open_teacher(job, ledger, purse)


async def _close(work: OrderedWork[Task, Draft], teacher: AskedTeacher) -> None:
    await work.stop()
    await teacher.close()


def forecast(job: Job) -> str:
    """Return what a job would ask, cost and take, as one line; nothing is asked or written.

    Of the requests it counts the first of each record; repairs come on top.
    """
    if not is_asked(job.teacher):
        return f"the teacher {job.teacher!r} works here: it asks nobody and costs nothing"
    if job.ledger is None:
        raise LaternaError(f"the teacher {job.teacher!r} needs a ledger")
    if not job.ledger.is_file():
        if job.teacher == "replay":
            raise LaternaError(f"{job.ledger}: no such ledger")
        return _forecast(job, None, ASKED_TEACHERS[job.teacher].identity(job, None))
    with Ledger(job.ledger) as ledger:
        return _forecast(job, ledger, ASKED_TEACHERS[job.teacher].identity(job, ledger))


def _forecast(job: Job, ledger: Ledger | None, identity: Identity) -> str:
    known = [total for total in ledger.totals if total.identity == identity] if ledger else []
    counted = Forecast(known[0] if known else None)
    workshop = Workshop(job, {})
    numbered = enumerate(_scenes(job, []))
    mine = (pair for pair in numbered if job.shard.holds(pair[0]))
    for task in workshop.tasks(mine):
        if task.kind == "caption":
            continue
        proxy, messages = workshop.request(task)
        if not proxy.text:
            continue
        reply = ledger.find(request_key(identity, messages)) if ledger else None
        counted.add(task.kind, messages, answered=reply is not None)
    price = Prices(job.spending).of(identity.model)
    line = counted.line(job.endpoint, price)
    if job.judge:
        replies = sum(counted.requests.values())
        used = judging_usage(replies, counted.written)
        line += (
            f"; the judge on top: {replies:,} requests, about {used.prompt_tokens:,} tokens to read"
            f" and {used.completion_tokens:,} to write"
        )
        price = Prices(job.spending).of(job.judge)
        line += f", ${price.of(used):,.2f}" if price else ""
    return line
