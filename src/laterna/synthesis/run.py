"""Annotated images in, instruction records out: the synthesis step as a whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import msgspec

from laterna.errors import LaternaError
from laterna.files import require_replaceable, write_atomically
from laterna.progress import shown_progress
from laterna.records import Finding, InstructionRecord, Kind, Record, Verdict
from laterna.scenes.annotations import Problem
from laterna.synthesis.builder import CAPTION_QUESTION, BuildResult, Reject
from laterna.synthesis.checks import NearDuplicates
from laterna.synthesis.cluster import RayRun
from laterna.synthesis.engine import Calls, Run, forecast
from laterna.synthesis.outputs import write_records
from laterna.synthesis.settings import (
    INSTRUCTION_KINDS,
    KINDS,
    Endpoint,
    Job,
    Shard,
    Spending,
    check_job,
)
from laterna.synthesis.teachers.remote import is_remote

__all__ = [
    "CAPTION_QUESTION",
    "ENGINES",
    "INSTRUCTION_KINDS",
    "KINDS",
    "Summary",
    "dry_run",
    "run_job",
    "synthesize",
]

ENGINES: dict[str, type[Run] | type[RayRun]] = {"local": Run, "ray": RayRun}
"""Where the work is done: in this process, or mapped over a Ray Data cluster."""


class Summary(Record):
    """What a synthesis made, and what it left out by reason."""

    out: str
    scenes: int
    records: dict[str, int]
    """Records by kind."""
    problems: tuple[Problem, ...]
    calls: Calls | None = None
    """What was asked; None for a teacher that works here."""
    rejected: dict[str, int] = msgspec.field(default_factory=dict)
    """Replies that the checks rejected by reason, those that a repair mended included; and
    requests that got none."""
    repaired: int = 0
    """Records whose first reply was rejected."""
    stripped: dict[str, int] = msgspec.field(default_factory=dict)
    """Records around whose answers something was taken off, by what."""
    checked: int = 0
    """Claims of the accepted replies that could be held against the proxy."""
    unchecked: int = 0
    """Claims of the accepted replies that could not."""

    def line(self) -> str:
        """Return the summary as one line."""
        made = ", ".join(f"{number} {kind}" for kind, number in self.records.items())
        line = f"{self.scenes} images -> {made} records in {self.out}"
        for said, kept in (("left out", False), ("read otherwise", True)):
            reasons = Counter(one.reason for one in self.problems if one.kept == kept)
            found = ", ".join(f"{number} {reason}" for reason, number in reasons.most_common())
            line += f"; {said}: {found}" if found else ""
        taken = ", ".join(f"{number} {name}" for name, number in self.stripped.items())
        line += f"; taken off around answers: {taken}" if taken else ""
        line += f"; repaired {self.repaired}" if self.repaired else ""
        line += f"; {self.calls.line()}" if self.calls else ""
        return line


def synthesize(
    annotations: Path,
    out: Path,
    *,
    captions: Path | None = None,
    teacher: str = "scribe",
    kinds: tuple[Kind, ...] = INSTRUCTION_KINDS,
    seed: int = 0,
    conversation_boxes: bool = False,
    repair: int = 0,
    endpoint: Endpoint | None = None,
    spending: Spending | None = None,
    ledger: Path | None = None,
    shard: Shard | None = None,
    form: str = "llava",
) -> Summary:
    """Write instruction records for every annotated image to `out`, in LLaVA's form.

    `kinds` may hold `caption`, which needs no teacher. `conversation_boxes` shows the boxes to
    the teacher of conversations too, who cannot count without them (LLaVA issue 991); LLaVA's
    own form leaves them out. Teachers whose answers cost something are told of by `endpoint`,
    and keep their answers in `ledger`, by default beside `out`. Raises LaternaError when the
    annotations cannot be read or nothing can be made of them.
    """
    job = Job(
        annotations=annotations,
        captions=captions,
        teacher=teacher,
        kinds=kinds,
        seed=seed,
        conversation_boxes=conversation_boxes,
        repair=repair,
        endpoint=endpoint or Endpoint(),
        spending=spending or Spending(),
        ledger=ledger,
        shard=shard or Shard(),
    )
    return run_job(job, out, form=form)


def dry_run(job: Job, out: Path) -> str:
    """Return what a job would ask, cost and take, as one line; nothing is asked or written."""
    check_job(job)
    return forecast(_with_ledger(job, out))


def run_job(job: Job, out: Path, *, form: str = "llava", engine: str = "local") -> Summary:
    """Do a job and write its records to `out`, and its rejects beside; return what was made.

    The bytes depend on the job and the answers alone: not on the order in which answers came,
    nor on how often the run was killed and begun again.
    """
    if engine not in ENGINES:
        raise LaternaError(f"unknown engine {engine!r}; known are: {', '.join(ENGINES)}")
    check_job(job)
    require_replaceable(out)
    job = _with_ledger(job, out)
    run = ENGINES[engine](job)
    counter = _Counter(job, run)
    nothing: LaternaError | None = None
    with ExitStack() as files:
        if is_remote(job.teacher):
            aside = files.enter_context(write_atomically(rejects_file(out)))
            counter.rejects = files.enter_context(aside.open("wb"))
        try:
            write_records(out, counter.records(_shown(run)), form)
        except _NothingMadeError as error:
            nothing = error  # the rejects, which say why, are kept
    if nothing:
        raise nothing
    return counter.summary(out)


def _shown(run: Run | RayRun) -> Iterator[BuildResult]:
    """Pass the results on, and show how many of how many there are."""
    with shown_progress("synthesis") as shown:
        shown.expect(run.expected())
        for number, result in enumerate(run.results(), start=1):
            yield result
            shown.update(number)


def rejects_file(out: Path) -> Path:
    """Return where the replies that the checks rejected are written, with their reasons."""
    return out.parent / f"{out.stem}.rejects.jsonl"


def ledger_file(out: Path) -> Path:
    """Return where a teacher's answers are kept unless told otherwise."""
    return out.parent / f"{out.stem}.ledger.sqlite"


def _with_ledger(job: Job, out: Path) -> Job:
    if job.ledger is not None or not is_remote(job.teacher):
        return job
    return msgspec.structs.replace(job, ledger=ledger_file(out))


class _NothingMadeError(LaternaError):
    """There is no record to write."""


class _Counter:
    """Passes on the records of results in their order; sorts out repeats and counts the rest."""

    def __init__(self, job: Job, run: Run | RayRun) -> None:
        self._job, self._run = job, run
        # Scribe's sentences are few and repeat by design; a language model's should not.
        self._earlier = NearDuplicates() if is_remote(job.teacher) else None
        self.rejects: BinaryIO | None = None
        self._scenes, self._last = 0, -1
        self._made: Counter[str] = Counter()
        self._problems: list[Problem] = []
        self._rejected: Counter[str] = Counter()
        self._said: dict[str, str] = {}
        self._stripped: Counter[str] = Counter()
        self._repaired = self._checked = self._unchecked = 0

    def records(self, results: Iterable[BuildResult]) -> Iterator[InstructionRecord]:
        """Yield the records; raise LaternaError at the end when there was none."""
        for result in results:
            self._scenes += result.number != self._last
            self._last = result.number
            for reject in result.rejects:
                self._reject(reject)
            if result.problem:
                self._leave_out(result, result.problem)
                continue
            if self._repeats(result):
                continue
            self._repaired += bool(result.rejects)
            self._stripped.update(result.stripped)
            self._checked += result.checked
            self._unchecked += result.unchecked
            self._made[result.kind] += len(result.records)
            yield from result.records
        if not self._made.total():
            raise _NothingMadeError(f"{self._job.annotations}: {self._why_nothing()}")

    def _why_nothing(self) -> str:
        """Return why there is no record: the reasons with their number and what was said first."""
        reasons = Counter(problem.reason for problem in self._problems)
        told = "; ".join(
            f"{number} {reason}" + (f": {self._said[reason]}" if self._said.get(reason) else "")
            for reason, number in reasons.most_common()
        )
        calls = f"; {self._run.calls.line()}" if self._run.calls else ""
        return "no record could be made of it" + (f" ({told})" if told else "") + calls

    def summary(self, out: Path) -> Summary:
        """Return what was made, once all records have passed."""
        return Summary(
            out=str(out),
            scenes=self._scenes,
            records={kind: self._made[kind] for kind in self._job.kinds},
            problems=(*self._run.problems, *self._problems),
            calls=self._run.calls,
            rejected=dict(self._rejected.most_common()),
            repaired=self._repaired,
            stripped=dict(self._stripped.most_common()),
            checked=self._checked,
            unchecked=self._unchecked,
        )

    def _repeats(self, result: BuildResult) -> bool:
        """Tell whether a result says almost what an earlier one said; then it is rejected."""
        if self._earlier is None or result.kind == "caption":
            return False
        (record,) = result.records
        said = "\n".join(turn.text for turn in record.turns if turn.role == "assistant")
        if not self._earlier.add(said):
            return False
        key = record.provenance.ledger_key if record.provenance else None
        verdict = Verdict(findings=(Finding(reason="near-duplicate", sentence=said),))
        self._reject(Reject(id=record.id, kind=result.kind, ledger_key=key, verdict=verdict))
        self._leave_out(result, "near-duplicate")
        return True

    def _leave_out(self, result: BuildResult, reason: str) -> None:
        where = f"image {result.scene}, {result.kind}"
        self._problems.append(Problem(reason=reason, where=where))

    def _reject(self, reject: Reject) -> None:
        self._rejected.update({finding.reason for finding in reject.verdict.findings})
        for finding in reject.verdict.findings:
            if finding.detail:
                self._said.setdefault(finding.reason, finding.detail)
        if self.rejects:
            self.rejects.write(msgspec.json.encode(reject) + b"\n")
