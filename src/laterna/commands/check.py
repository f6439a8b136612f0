"""`laterna check`: a teacher's replies against what it was shown."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from laterna.commands.base import Command, Reads, Writes, show_some


class Check(Command, frozen=True, kw_only=True):
    """Hold a teacher's replies against the captions and boxes it was shown."""

    contexts: Path
    """What the teacher was shown: JSON lines of contexts, or any annotations `synthesize` reads."""
    replies: Path
    """JSON lines of replies: `id`, `kind`, `text`, `finish_reason`; or LLaVA's published form of
    GPT-4's answers: `id`, `instruction`, `output`, `type`."""
    out: Path
    """JSON lines file for the verdicts, one a reply: findings with their sentences, and counts of
    claims that could and could not be checked."""

    def reads(self) -> Iterator[Reads]:
        """Name both files."""
        yield from (Reads(self.contexts), Reads(self.replies, kind="file"))

    def writes(self) -> Iterator[Writes]:
        """Name the verdicts."""
        yield Writes(self.out)

    def run(self) -> str:
        """Call `laterna.synthesis.checks.files`."""
        from laterna.synthesis.checks.files import check_files

        summary = check_files(self.contexts, self.replies, self.out)
        show_some("rejected", summary.rejected)
        show_some("not checked", summary.problems)
        return summary.line()
