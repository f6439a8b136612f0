"""A finished set in the terminal: its kinds, what it asks about, and how long its answers are."""

from __future__ import annotations

from rich.table import Table

from laterna.analysis.coverage import Coverage
from laterna.report.distributions import histogram
from laterna.report.parts import share

_BAR = 30
"""Longest bar, in characters."""


def kind_table(coverage: Coverage) -> Table:
    """Show the records by kind."""
    table = Table("kind", "records")
    for kind, number in coverage.kinds:
        table.add_row(kind, str(number))
    return table


def coverage_table(coverage: Coverage) -> Table:
    """Show what is asked about, and, where a proxy is known, what it supported."""
    table = Table("property", "questions", "share", "declined")
    if coverage.with_proxy:
        for name in ("supported", "without support", "not judged"):
            table.add_column(name)
    for row in coverage.properties:
        cells = [row.name, str(row.questions), share(row.questions, coverage.questions)]
        cells.append(str(row.declined))
        if coverage.with_proxy:
            cells += [str(row.supported), str(row.unsupported), str(row.unjudged)]
        table.add_row(*cells)
    return table


def length_table(coverage: Coverage) -> Table:
    """Show the answers by their length in words, as bars."""
    table = Table("words", "answers", "")
    bars = histogram(coverage.answer_words, bins=12)
    most = max((number for _, number in bars), default=0)
    for label, number in bars:
        table.add_row(label, str(number), "█" * round(_BAR * number / most))
    return table
