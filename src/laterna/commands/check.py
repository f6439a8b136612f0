"""`laterna check`: a teacher's replies against what it was shown."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from laterna.choices import KeysOf
from laterna.commands.base import Command, Reads, Writes, show_some
from laterna.synthesis.settings import Endpoint, Job, Spending


class Check(Command, frozen=True, kw_only=True):
    """Check a teacher's replies against the captions and boxes it was shown."""

    contexts: Path
    """What the teacher was shown: JSON lines of contexts, or any annotations that `synthesize`
    reads."""
    replies: Path
    """JSON lines of replies, with `id`, `kind`, `text`, `finish_reason`, or in the form of LLaVA's
    published GPT-4 answers: `id`, `instruction`, `output`, `type`."""
    out: Path
    """JSON lines file for the results, one per reply: each finding with its sentence, and the
    numbers of claims that were and were not checked."""

    judge: str = ""
    """Language model that lists the claims of each reply; boxes and captions then decide them. One
    request per reply. Default: none, only the rules."""
    judge_by: Annotated[str, KeysOf("laterna.synthesis.settings:JUDGED_TEACHERS")] = "openai"
    """How the judge is asked: one request at a time, by the batch API, or only from a ledger."""
    endpoint: Annotated[Endpoint, arg(name="")] = Endpoint()
    spending: Annotated[Spending, arg(name="")] = Spending()
    ledger: Path | None = None
    """SQLite file that keeps the judge's answers; default: beside OUT."""

    def reads(self) -> Iterator[Reads]:
        """Name both files."""
        yield from (Reads(self.contexts), Reads(self.replies, kind="file"))

    def writes(self) -> Iterator[Writes]:
        """Name the verdicts."""
        yield Writes(self.out)

    def run(self) -> str:
        """Call `laterna.synthesis.checks.files`."""
        from laterna.synthesis.checks.files import check_files

        judging = None
        if self.judge:
            judging = Job(
                annotations=self.contexts,
                teacher=self.judge_by,
                judge=self.judge,
                endpoint=self.endpoint,
                spending=self.spending,
                ledger=self.ledger or self.out.with_name(f"{self.out.stem}.ledger.sqlite"),
            )
        summary = check_files(self.contexts, self.replies, self.out, judging)
        show_some("rejected", summary.rejected)
        show_some("not checked", summary.problems)
        return summary.line()
