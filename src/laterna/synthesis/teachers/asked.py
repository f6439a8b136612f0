"""The teachers whose answers cost something, by name, and what opens them behind a ledger."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

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


class Asked(NamedTuple):
    """A teacher that is asked: what opens it, and who it is."""

    open: Callable[[Job, Ledger, Purse], AskedTeacher]
    identity: Callable[[Job, Ledger | None], Identity]
    """Who would be asked, without opening anything: what a dry run needs."""


ASKED_TEACHERS: dict[str, Asked] = {
    "openai": Asked(
        lambda job, _, purse: OpenAITeacher(job.endpoint, purse),
        lambda job, _: openai_identity(job.endpoint),
    ),
    "batch": Asked(
        lambda job, ledger, purse: BatchTeacher(job.endpoint, ledger, purse),
        lambda job, _: openai_identity(job.endpoint),
    ),
    "local": Asked(
        lambda job, _, purse: LocalTeacher(job.endpoint, purse.check),
        lambda job, _: local_identity(job.endpoint),
    ),
    "replay": Asked(
        lambda job, ledger, _: ReplayTeacher(job.endpoint, ledger),
        lambda job, ledger: replay_identity(job.endpoint, ledger),
    ),
}


def is_asked(name: str) -> bool:
    """Tell whether a teacher is one of these; raise LaternaError for an unknown name."""
    if name in ASKED_TEACHERS or name in TEACHERS:
        return name in ASKED_TEACHERS
    known = ", ".join((*TEACHERS, *ASKED_TEACHERS))
    raise LaternaError(f"unknown teacher {name!r}; known are: {known}")


def open_purse(job: Job, ledger: Ledger) -> Purse:
    """Return what watches the budget of a job."""
    model = ASKED_TEACHERS[job.teacher].identity(job, ledger).model
    return Purse(ledger, model, Prices(job.spending), job.spending.budget)


def open_teacher(job: Job, ledger: Ledger, purse: Purse) -> tuple[Recorded, AskedTeacher]:
    """Return the job's teacher behind the ledger, and the teacher itself."""
    teacher = ASKED_TEACHERS[job.teacher].open(job, ledger, purse)
    return Recorded(teacher, ledger, purse), teacher
