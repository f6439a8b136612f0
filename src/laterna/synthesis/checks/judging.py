"""Opens the judge of a job behind its ledger, and asks it about a whole file of replies."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import TracebackType

import msgspec

from laterna.errors import LaternaError
from laterna.records import Reply, Scene
from laterna.synthesis.checks.judge import Judge, Judgement, judge_endpoint
from laterna.synthesis.ledger import Ledger
from laterna.synthesis.pipeline import OrderedWork
from laterna.synthesis.settings import Job, check_job
from laterna.synthesis.teachers.base import RemoteTeacher
from laterna.synthesis.teachers.cached import CachedTeacher
from laterna.synthesis.teachers.remote import open_budget, open_teacher

_AHEAD = 1024


class OpenJudge:
    """The judge of a job, open as long as this is entered; none where the job names none."""

    judge: Judge | None = None
    spent: float | None = None

    def __init__(self, job: Job, ledger: Ledger, runner: asyncio.Runner) -> None:
        self._job, self._ledger, self._runner = job, ledger, runner
        self._recorded: CachedTeacher | None = None
        self._teacher: RemoteTeacher | None = None

    def __enter__(self) -> OpenJudge:
        """Open the judge's client, where there is one."""
        if self._job.judge:
            job = msgspec.structs.replace(
                self._job, endpoint=judge_endpoint(self._job.endpoint, self._job.judge)
            )
            self._recorded, self._teacher = self._runner.run(self._open(job))
            self.judge = Judge(self._recorded)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let go of its connections."""
        if self._teacher is not None:
            self._runner.run(self._teacher.close())

    async def _open(self, job: Job) -> tuple[CachedTeacher, RemoteTeacher]:
        budget = open_budget(job, self._ledger)
        return open_teacher(job, self._ledger, budget)

    @property
    def at_once(self) -> int:
        """Requests that it can make use of at the same time."""
        return self._teacher.at_once if self._teacher else 1

    @property
    def asked(self) -> int:
        """Requests that were paid for."""
        return self._recorded.asked if self._recorded else 0

    @property
    def found(self) -> int:
        """Requests that the ledger had the answer to."""
        return self._recorded.found if self._recorded else 0

    @property
    def counts(self) -> dict[str, int]:
        """What came of the replies, by outcome."""
        return dict(sorted(self.judge.counts.items())) if self.judge else {}


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
        OpenJudge(job, ledger, runner) as opened,
    ):
        judge = opened.judge
        assert judge is not None  # check_job saw to it that the job names one

        async def ask(one: tuple[Scene, Reply]) -> Judgement:
            return await judge.judge(*one)

        work = OrderedWork(iter(replies), ask, at_once=opened.at_once, ahead=_AHEAD)
        judgements: list[Judgement] = []
        try:
            while found := runner.run(work.next()):
                judgements += found
        finally:
            runner.run(work.stop())
        return judgements, opened.counts
