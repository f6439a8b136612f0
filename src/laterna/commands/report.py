"""`laterna report`: a training run as one page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tyro.conf import Positional

from laterna.commands.base import Command, Reads, Writes
from laterna.errors import LaternaError


class Report(Command, frozen=True, kw_only=True):
    """Show a training run as one offline HTML page: losses, speed, answers.

    It shows what the folder holds: finished stages, a stage that is still training, and scores
    that `laterna evaluate --out` wrote there.
    """

    folder: Positional[Path]
    """Folder of a run (`laterna train --out`), or the checkpoint of one stage."""
    out: Path | None = None
    """Page to write; default: training.html in the folder."""

    def _page(self) -> Path:
        return self.out or self.folder / "training.html"

    def reads(self) -> Iterator[Reads]:
        """Name the files with figures; those of checkpoints are known to belong to them."""
        if not self.folder.is_dir():
            raise LaternaError(f"{self.folder}: no such folder")
        for ending in ("json", "jsonl"):
            yield from map(Reads, self.folder.glob(f"*.{ending}"))

    def writes(self) -> Iterator[Writes]:
        """Name the page."""
        yield Writes(self._page())

    def run(self) -> str:
        """Call `laterna.report`."""
        from laterna.report.page import write_report
        from laterna.report.training import run_content

        content = run_content(self.folder)
        page = self._page()
        write_report(page, content)
        return f"made the report of {len(content.stages)} stages: {page}"
