"""The teachers whose answers cost something, by name, and what opens them behind a ledger."""

from __future__ import annotations

from collections.abc import Callable

from laterna.errors import LaternaError
from laterna.synthesis.cost import Prices, Purse
from laterna.synthesis.ledger import Ledger
from laterna.synthesis.settings import Job
from laterna.synthesis.teachers import TEACHERS
from laterna.synthesis.teachers.base import AskedTeacher, Identity
from laterna.synthesis.teachers.batch import BatchTeacher
from laterna.synthesis.teachers.local import LocalTeacher, local_identity
from laterna.synthesis.teachers.openai import OpenAITeacher, openai_identity
from laterna.synthesis.teachers.recorded import Recorded
from laterna.synthesis.teachers.replay import ReplayTeacher, replay_identity

ASKED_TEACHERS: dict[str, Callable[[Job, Ledger, Purse], AskedTeacher]] = {
    "openai": lambda job, _, purse: OpenAITeacher(job.endpoint, purse),
    "batch": lambda job, ledger, purse: BatchTeacher(job.endpoint, ledger, purse),
    "local": lambda job, _, purse: LocalTeacher(job.endpoint, purse.check),
    "replay": lambda job, ledger, _: ReplayTeacher(job.endpoint, ledger),
}
IDENTITIES: dict[str, Callable[[Job, Ledger | None], Identity]] = {
    "openai": lambda job, _: openai_identity(job.endpoint),
    "batch": lambda job, _: openai_identity(job.endpoint),
    "local": lambda job, _: local_identity(job.endpoint),
    "replay": lambda job, ledger: replay_identity(job.endpoint, ledger),
}
"""Who would be asked, without opening anything: what a dry run needs."""


def is_asked(name: str) -> bool:
    """Tell whether a teacher is one of these; raise LaternaError for an unknown name."""
    if name in ASKED_TEACHERS or name in TEACHERS:
        return name in ASKED_TEACHERS
    known = ", ".join((*TEACHERS, *ASKED_TEACHERS))
    raise LaternaError(f"unknown teacher {name!r}; known are: {known}")


def open_purse(job: Job, ledger: Ledger) -> Purse:
    """Return what watches the budget of a job."""
    model = IDENTITIES[job.teacher](job, ledger).model
    return Purse(ledger, model, Prices(job.spending), job.spending.budget)


def open_teacher(job: Job, ledger: Ledger, purse: Purse) -> tuple[Recorded, AskedTeacher]:
    """Return the job's teacher behind the ledger, and the teacher itself."""
    teacher = ASKED_TEACHERS[job.teacher](job, ledger, purse)
    return Recorded(teacher, ledger, purse), teacher
