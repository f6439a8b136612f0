"""Write docs/lab/NAME.md and NAME.svg of every experiment that a lab's folder holds.

`python tools/write_lab_pages.py runs/lab`. What stands on a page from `## A second look` on was
written by hand, and is kept.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from laterna.errors import LaternaError
from laterna.files import write_atomically
from laterna.lab import EXPERIMENTS
from laterna.lab.experiment import Finding
from laterna.lab.pages import FIGURE, as_markdown
from laterna.lab.run import FOUND

PAGES = Path(__file__).resolve().parent.parent / "docs" / "lab"
BY_HAND = "## A second look"


def write_pages(lab: Path, pages: Path) -> list[Finding]:
    """Write the pages of what was found in a lab's folder, and return what was found.

    Raises LaternaError for a quick run, whose numbers mean nothing.
    """
    written = []
    for name in EXPERIMENTS:
        found = lab / name / FOUND
        if not found.is_file():
            continue
        finding = msgspec.json.decode(found.read_bytes(), type=Finding)
        if finding.quick:
            raise LaternaError(f"{found}: a quick run shows nothing; run it without --quick")
        page = pages / f"{name}.md"
        text = as_markdown(finding).replace(f"]({FIGURE})", f"]({name}.svg)")
        for path, content in (
            (page, text + _by_hand(page)),
            (pages / f"{name}.svg", finding.figure),
        ):
            with write_atomically(path) as aside:
                aside.write_text(content, encoding="utf-8")
        written.append(finding)
    return written


def _by_hand(page: Path) -> str:
    """Return what of a page was written by hand, with the empty line before it."""
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    _, mark, rest = text.partition(BY_HAND)
    return f"\n{mark}{rest}" if mark else ""


if __name__ == "__main__":
    for one in write_pages(Path(sys.argv[1]), PAGES):
        print(f"{one.title}: {one.processor_minutes:g} processor minutes")
