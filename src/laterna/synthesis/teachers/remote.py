"""The teachers whose answers cost something, by name, and what opens them behind a ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from laterna.errors import LaternaError
from laterna.synthesis.budget import Budget, Prices
from laterna.synthesis.ledger import Ledger
from laterna.synthesis.settings import Job
from laterna.synthesis.teachers import TEACHERS
from laterna.synthesis.teachers.base import Identity, RemoteTeacher
from laterna.synthesis.teachers.batch import BatchTeacher
from laterna.synthesis.teachers.cached import CachedTeacher, ReplayTeacher, replay_identity
from laterna.synthesis.teachers.local import LocalTeacher, local_identity
from laterna.synthesis.teachers.openai import OpenAITeacher, openai_identity

REMOTE_TEACHERS: dict[str, Callable[[Job, Ledger, Budget], RemoteTeacher]] = {
    "openai": lambda job, _, budget: OpenAITeacher(job.endpoint, budget),
    "batch": lambda job, ledger, budget: BatchTeacher(job.endpoint, ledger, budget),
    "local": lambda job, _, budget: LocalTeacher(job.endpoint, budget.check),
    "replay": lambda job, ledger, _: ReplayTeacher(job.endpoint, ledger),
}
IDENTITIES: dict[str, Callable[[Job, Ledger | None], Identity]] = {
    "openai": lambda job, _: openai_identity(job.endpoint),
    "batch": lambda job, _: openai_identity(job.endpoint),
    "local": lambda job, _: local_identity(job.endpoint),
    "replay": lambda job, ledger: replay_identity(job.endpoint, ledger),
}
"""Who would be asked, without opening anything: what a dry run needs."""


def is_remote(name: str) -> bool:
    """Tell whether a teacher is one of these; raise LaternaError for an unknown name."""
    if name in REMOTE_TEACHERS or name in TEACHERS:
        return name in REMOTE_TEACHERS
    known = ", ".join((*TEACHERS, *REMOTE_TEACHERS))
    raise LaternaError(f"unknown teacher {name!r}; known are: {known}")


@contextmanager
def open_teacher(job: Job, ledger: Ledger, runner: asyncio.Runner) -> Iterator[CachedTeacher]:
    """Give the job's teacher behind the ledger; its connections end with the block."""
    model = IDENTITIES[job.teacher](job, ledger).model
    budget = Budget(ledger, model, Prices(job.spending), job.spending.budget)

    async def make() -> RemoteTeacher:  # its client wants a running loop
        return REMOTE_TEACHERS[job.teacher](job, ledger, budget)

    teacher = runner.run(make())
    try:
        yield CachedTeacher(teacher, ledger, budget)
    finally:
        runner.run(teacher.close())
