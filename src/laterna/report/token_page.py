"""The page that shows records token by token, in the colours of what is learned and what is not."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from laterna.files import write_atomically
from laterna.records import Sample
from laterna.report.parts import page_environment
from laterna.report.token_view import NAMES, Decode, token_counts, token_runs


def write_token_page(path: Path, title: str, samples: Iterable[Sample], decode: Decode) -> None:
    """Write the page: one HTML file that needs nothing else."""
    text = (
        page_environment()
        .get_template("tokens.html.jinja")
        .render(
            title=title,
            names=NAMES,
            records=[(token_counts(sample), token_runs(sample, decode)) for sample in samples],
        )
    )
    with write_atomically(path) as aside:
        aside.write_text(text, encoding="utf-8")
