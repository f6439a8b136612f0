"""`laterna report`: a training run as one page."""

from __future__ import annotations

from pathlib import Path

from tyro.conf import Positional

from laterna.commands.base import Command


class Report(Command, frozen=True, kw_only=True):
    """Show a training run as one HTML page that needs nothing else: losses, speed, answers.

    It takes what lies in the folder: finished stages and one that still trains, and the figures
    that `laterna evaluate --out` wrote beside them.
    """

    folder: Positional[Path]
    """Folder of a run, as `laterna train --out` was given it; or one stage's checkpoint."""
    out: Path | None = None
    """Page to write; left out: training.html in the folder."""

    def run(self) -> str:
        """Call `laterna.report`."""
        from laterna.report.page import write_report
        from laterna.report.training import run_content

        content = run_content(self.folder)
        page = self.out or self.folder / "training.html"
        write_report(page, content)
        return f"made the report of {len(content.stages)} stages: {page}"
