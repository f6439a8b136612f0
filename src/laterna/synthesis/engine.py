"""Runs a job in this process: the scenes of its shard in, results out, in the scenes' order."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator

import msgspec

from laterna.errors import LaternaError
from laterna.records import Kind, Record, Scene
from laterna.scenes.annotations import Problem, stream_scenes
from laterna.scenes.kinds import is_closed, unmapped
from laterna.scenes.survey import Survey, survey
from laterna.synthesis.budget import Forecast, Prices
from laterna.synthesis.builder import BuildResult, RecordBuilder
from laterna.synthesis.checks.judge import judging_usage, open_judge
from laterna.synthesis.ledger import Ledger
from laterna.synthesis.pipeline import OrderedWork
from laterna.synthesis.settings import Job
from laterna.synthesis.teachers import make_teacher
from laterna.synthesis.teachers.base import Identity, Teacher, request_key
from laterna.synthesis.teachers.remote import REMOTE_TEACHERS, is_remote, open_teacher

_AHEAD = 8192
"""Results that may wait for an earlier one: a minute of a busy endpoint's answers, about 40 MB."""


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
        failed = "; ".join(
            f"{number} {reason}" + (f' ("{self.said[reason]}")' if reason in self.said else "")
            for reason, number in sorted(self.retries.items())
        )
        line = f"asked {self.asked}, answered before {self.found}"
        line += f"; calls that failed: {failed}" if failed else ""
        judged = ", ".join(f"{number} {outcome}" for outcome, number in self.judged.items())
        line += f"; judge: {judged}" if judged else ""
        line += f"; ${self.spent:,.4f} in all" if self.spent is not None else ""
        told = f"{self.estimated} calls by estimate, as the endpoint did not say their tokens"
        return line + (f" ({told})" if self.estimated else "")


class Run:
    """One job in this process.

    `results` may be gone through once; `problems` of the annotations and `calls` are whole
    afterwards.
    """

    def __init__(self, job: Job) -> None:
        """Prepare; raise LaternaError for an unknown teacher."""
        self._job = job
        self._asked = is_remote(job.teacher)
        self._read: tuple[Scene, ...] | None = None
        self.problems: list[Problem] = []
        self.calls: Calls | None = None

    def expected(self) -> int:
        """Return how many results there will be; the annotations are gone through for it."""
        if self._asked:
            mine = sum(1 for _ in self._mine(_scenes(self._job, [])))
        else:
            mine = sum(map(self._job.shard.holds, range(len(self._all_scenes()))))
        return mine * len(self._job.kinds)

    def results(self) -> Iterator[BuildResult]:
        """Yield the results in order, few of them in memory at a time."""
        if not self._asked:
            yield from self._compose()
            return
        if self._job.ledger is None:
            raise LaternaError(f"the teacher {self._job.teacher!r} needs a ledger")
        with Ledger(self._job.ledger, create=self._job.teacher != "replay") as ledger:
            yield from self._ask(ledger)

    def _compose(self) -> Iterator[BuildResult]:
        """Yield the results of a teacher that works here, at no cost."""
        job = self._job
        scenes = self._all_scenes()
        seen = survey(scenes)
        self._count_unmapped(seen)
        teachers: dict[Kind, Teacher] = {
            kind: make_teacher(job.teacher, kind, seen, job.seed)
            for kind in job.kinds
            if kind != "caption"
        }
        builder = RecordBuilder(job, teachers)
        with asyncio.Runner() as runner:
            for task in builder.tasks(self._mine(iter(scenes))):
                yield runner.run(builder.make(task))

    def _all_scenes(self) -> tuple[Scene, ...]:
        if self._read is None:
            self._read = tuple(_scenes(self._job, self.problems))
        return self._read

    def _count_unmapped(self, seen: Survey) -> None:
        """Note the categories, of those that are heads of phrases, that no kind is known of."""
        if is_closed(seen.categories):
            return
        for name in unmapped(seen.categories):
            where = f"{self._job.annotations}: {name} ({seen.images[name]} images)"
            reason = "category of no known kind: kept as it is"
            self.problems.append(Problem(reason=reason, where=where, kept=True))

    def _ask(self, ledger: Ledger) -> Iterator[BuildResult]:
        """Yield the results of a teacher whose answers are kept in a ledger."""
        job = self._job
        with (
            asyncio.Runner() as runner,
            open_teacher(job, ledger, runner) as asked,
            open_judge(job, ledger, runner) as (judge, judging),
        ):
            builder = RecordBuilder(job, dict.fromkeys(job.kinds, asked), asked.key, judge)
            tasks = builder.tasks(self._mine(_scenes(job, self.problems)))
            at_once = asked.teacher.at_once
            work = OrderedWork(tasks, builder.make, at_once=at_once, ahead=_AHEAD)
            try:
                while results := runner.run(work.next()):
                    yield from results
            finally:
                runner.run(work.stop())
                ledger.refresh()
                failures = asked.teacher.failures
                self.calls = Calls(
                    asked=asked.asked + (judging.asked if judging else 0),
                    found=asked.found + (judging.found if judging else 0),
                    judged=judge.outcomes if judge else {},
                    retries=dict(failures.counts),
                    said=failures.said,
                    estimated=asked.budget.estimated(),
                    spent=asked.budget.spent(),
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
        images=job.images,
        view=job.view,
    )


def forecast(job: Job) -> str:
    """Return what a job would ask, cost and take, as one line; nothing is asked or written.

    Of the requests it counts the first of each record; repairs come on top.
    """
    if not is_remote(job.teacher):
        return f"the teacher {job.teacher!r} works here: it asks nobody and costs nothing"
    if job.ledger is None:
        raise LaternaError(f"the teacher {job.teacher!r} needs a ledger")
    if not job.ledger.is_file():
        if job.teacher == "replay":
            raise LaternaError(f"{job.ledger}: no such ledger")
        return _forecast(job, None, REMOTE_TEACHERS[job.teacher].identity(job, None))
    with Ledger(job.ledger) as ledger:
        return _forecast(job, ledger, REMOTE_TEACHERS[job.teacher].identity(job, ledger))


def _forecast(job: Job, ledger: Ledger | None, identity: Identity) -> str:
    known = [total for total in ledger.totals if total.identity == identity] if ledger else []
    counted = Forecast(known[0] if known else None)
    builder = RecordBuilder(job, {})
    numbered = enumerate(_scenes(job, []))
    mine = (pair for pair in numbered if job.shard.holds(pair[0]))
    for task in builder.tasks(mine):
        if task.kind == "caption":
            continue
        proxy, messages = builder.request(task)
        if not proxy.text:
            continue
        reply = ledger.find(request_key(identity, messages)) if ledger else None
        counted.add(task.kind, messages, reply)
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
