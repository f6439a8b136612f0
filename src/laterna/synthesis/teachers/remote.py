"""The teachers whose answers cost something, by name, and what opens them behind a ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

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


class Remote(NamedTuple):
    """A teacher that is asked: what opens it, and who it is."""

    open: Callable[[Job, Ledger, Budget], RemoteTeacher]
    identity: Callable[[Job, Ledger | None], Identity]
    """Who would be asked, without opening anything: what a dry run needs."""


REMOTE_TEACHERS: dict[str, Remote] = {
    "openai": Remote(
        lambda job, _, budget: OpenAITeacher(job.endpoint, budget),
        lambda job, _: openai_identity(job.endpoint),
    ),
    "batch": Remote(
        lambda job, ledger, budget: BatchTeacher(job.endpoint, ledger, budget),
        lambda job, _: openai_identity(job.endpoint),
    ),
    "local": Remote(
        lambda job, _, budget: LocalTeacher(job.endpoint, budget.check),
        lambda job, _: local_identity(job.endpoint),
    ),
    "replay": Remote(
        lambda job, ledger, _: ReplayTeacher(job.endpoint, ledger),
        lambda job, ledger: replay_identity(job.endpoint, ledger),
    ),
}


def is_remote(name: str) -> bool:
    """Tell whether a teacher is one of these; raise LaternaError for an unknown name."""
    if name in REMOTE_TEACHERS or name in TEACHERS:
        return name in REMOTE_TEACHERS
    known = ", ".join((*TEACHERS, *REMOTE_TEACHERS))
    raise LaternaError(f"unknown teacher {name!r}; known are: {known}")


@contextmanager
def open_teacher(job: Job, ledger: Ledger, runner: asyncio.Runner) -> Iterator[CachedTeacher]:
    """Give the job's teacher behind the ledger; its connections end with the block."""
    model = REMOTE_TEACHERS[job.teacher].identity(job, ledger).model
    budget = Budget(ledger, model, Prices(job.spending), job.spending.budget)

    async def make() -> RemoteTeacher:  # its client wants a running loop
        return REMOTE_TEACHERS[job.teacher].open(job, ledger, budget)

    teacher = runner.run(make())
    try:
        yield CachedTeacher(teacher, ledger, budget)
    finally:
        runner.run(teacher.close())
