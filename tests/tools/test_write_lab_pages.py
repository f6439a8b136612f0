"""The lab's pages: made from findings, what was written by hand kept."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from laterna.errors import LaternaError
from laterna.files import write_json
from laterna.lab.experiment import Finding, Shown
from laterna.lab.run import FOUND
from write_lab_pages import write_pages

FINDING = Finding(
    title="projector",
    question="Why?",
    done="Two were trained.",
    answer="Because 0.500 against 0.250.",
    limits="The rest.",
    foretold="Predicted: so. It was found.",
    tables=(Shown(title="Stage 1", columns=("arm", "loss"), rows=(("mlp", "0.500"),)),),
    figure="<svg></svg>",
    arms=(("mlp", "nothing"),),
    seeds=(0,),
    minutes=3.0,
    processor_minutes=2.5,
    quick=False,
)


def test_a_page_is_made_again_and_what_was_written_by_hand_kept(tmp_path: Path) -> None:
    lab, pages = tmp_path / "lab", tmp_path / "docs"
    (lab / "projector").mkdir(parents=True)
    pages.mkdir()
    write_json(lab / "projector" / FOUND, FINDING)
    assert write_pages(lab, pages) == [FINDING]
    page = pages / "projector.md"
    first = page.read_text(encoding="utf-8")
    assert first.startswith("# projector\n\n**Why?**\n\nBecause 0.500 against 0.250.\n")
    assert "![Why?](projector.svg)" in first
    assert "**Stage 1**\n\n| arm | loss |\n| --- | ---: |\n| mlp | 0.500 |\n" in first
    assert "2.5 processor minutes for one seed" in first
    assert (pages / "projector.svg").read_text(encoding="utf-8") == "<svg></svg>"
    page.write_text(first + "\n## A second look\n\nIt was the steps.\n", encoding="utf-8")
    write_json(lab / "projector" / FOUND, replace(FINDING, answer="Who knows."))
    for _ in range(2):
        write_pages(lab, pages)
    again = page.read_text(encoding="utf-8")
    assert "Who knows." in again
    assert again.count("## A second look\n\nIt was the steps.\n") == 1
    assert [path.name for path in sorted(pages.iterdir())] == ["projector.md", "projector.svg"]


def test_a_quick_run_makes_no_page(tmp_path: Path) -> None:
    (tmp_path / "projector").mkdir()
    write_json(tmp_path / "projector" / FOUND, replace(FINDING, quick=True))
    with pytest.raises(LaternaError, match="a quick run shows nothing"):
        write_pages(tmp_path, tmp_path)
