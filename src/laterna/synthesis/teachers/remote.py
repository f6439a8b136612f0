"""The teachers whose answers cost something, by name, and what opens them behind a ledger."""

from __future__ import annotations

from collections.abc import Callable

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


def open_budget(job: Job, ledger: Ledger) -> Budget:
    """Return what watches the budget of a job."""
    model = IDENTITIES[job.teacher](job, ledger).model
    return Budget(ledger, model, Prices(job.spending), job.spending.budget)


def open_teacher(job: Job, ledger: Ledger, budget: Budget) -> tuple[CachedTeacher, RemoteTeacher]:
    """Return the job's teacher behind the ledger, and the teacher itself."""
    teacher = REMOTE_TEACHERS[job.teacher](job, ledger, budget)
    return CachedTeacher(teacher, ledger, budget), teacher
