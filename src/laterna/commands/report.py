"""`laterna report`: a training run, or an evaluation, as one page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tyro.conf import Positional

from laterna.commands.base import Command, Reads, Writes
from laterna.errors import LaternaError


class Report(Command, frozen=True, kw_only=True):
    """Show a training run as one offline HTML page (losses, speed, answers), or an evaluation.

    It shows what the folder holds: finished stages, a stage that is still training, and scores
    that `laterna evaluate --out` wrote into it.
    """

    folder: Positional[Path]
    """Folder of a run (`laterna train --out`), the checkpoint of one stage, or the folder of an
    evaluation (`laterna evaluate --out`)."""
    out: Path | None = None
    """Page to write; default: training.html in the folder, report.html in that of an evaluation."""

    def _page(self) -> Path:
        from laterna.evaluation.saved import PAGE, is_run

        return self.out or self.folder / (PAGE if is_run(self.folder) else "training.html")

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
        from laterna.evaluation.saved import is_run, read_run
        from laterna.report.evaluation import write_evaluation_page
        from laterna.report.page import write_report
        from laterna.report.training import run_content

        if is_run(self.folder):
            run = read_run(self.folder)
            write_evaluation_page(self._page(), run)
            return f"made the report of {', '.join(run.tasks)}: {self._page()}"
        content = run_content(self.folder)
        page = self._page()
        write_report(page, content)
        return f"made the report of {len(content.stages)} stages: {page}"
