"""A finding as tables, as a page of Markdown, and as tables that a terminal has room for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from laterna.lab.experiment import Finding, Results, Shown

FIGURE = "figure.svg"
NONE = "–"
COUNTED = 10
"""A whole number without an interval counts something from here on, and has no decimals."""
BORDER = 3
"""Characters that a terminal's table takes beside a column's own."""


def tables_of(
    measures: Sequence[str] | Mapping[str, Sequence[str]], arms: Sequence[str], results: Results
) -> tuple[Shown, ...]:
    """Return the tables of measures, each with the arms that have some of its measures."""
    titled = measures if isinstance(measures, Mapping) else {"": measures}
    return tuple(
        Shown(
            title=title,
            columns=("arm", *own),
            rows=tuple(
                (arm, *(_cell(results, arm, measure) for measure in own))
                for arm in arms
                if any(results.has(arm, measure) for measure in own)
            ),
        )
        for title, own in titled.items()
    )


def _cell(results: Results, arm: str, measure: str) -> str:
    spread = results.spread(arm, measure)
    if math.isnan(spread.mean):
        return NONE
    counted = math.isnan(spread.low) and spread.mean >= COUNTED and spread.mean.is_integer()
    return f"{spread.mean:,.0f}" if counted else spread.words


def fitting(table: Shown, room: int) -> Iterator[Shown]:
    """Yield a table in parts that each have room in so many characters, no cell broken.

    A table too wide is turned over where that makes it narrower, and then cut between columns,
    of which the first stands in every part.
    """
    if _width(table) > room:
        turned = _turned(table)
        table = turned if _width(turned) < _width(table) else table
    widths = _widths(table)
    start = 1
    while start < len(widths):
        end, width = start + 1, widths[0] + widths[start]
        while end < len(widths) and width + widths[end] < room:
            width += widths[end]
            end += 1
        columns = (0, *range(start, end))
        yield Shown(
            title=table.title,
            columns=tuple(table.columns[place] for place in columns),
            rows=tuple(tuple(row[place] for place in columns) for row in table.rows),
        )
        start = end


def _turned(table: Shown) -> Shown:
    """Return a table whose rows are measures."""
    head, *rows = zip(table.columns, *table.rows, strict=True)
    return Shown(title=table.title, columns=("measure", *head[1:]), rows=tuple(rows))


def _widths(table: Shown) -> list[int]:
    return [
        max(map(len, column)) + BORDER for column in zip(table.columns, *table.rows, strict=True)
    ]


def _width(table: Shown) -> int:
    return sum(_widths(table)) + 1


def as_markdown(finding: Finding) -> str:
    """Return a finding as a page of Markdown beside its figure."""
    arms = [f"- `{name}`: {told}" for name, told in finding.arms]
    foretold = ["## What was predicted", "", finding.foretold, ""] if finding.foretold else []
    return "\n".join(
        [
            f"# {finding.title}",
            "",
            f"**{finding.question}**",
            "",
            finding.answer,
            "",
            f"![{finding.question}]({FIGURE})",
            "",
            *(line for table in finding.tables for line in _table_lines(table)),
            *foretold,
            "## What was done",
            "",
            finding.done,
            "",
            "Arms, by what they differ in from the first:",
            "",
            *arms,
            "",
            _minutes(finding),
            "",
            "## What it does not show",
            "",
            finding.limits.strip(),
            "",
        ]
    )


def _table_lines(table: Shown) -> list[str]:
    """Return a table in Markdown, numbers to the right."""
    rules = [" --- ", *(" ---: " for _ in table.columns[1:])]
    return [
        *([f"**{table.title}**", ""] if table.title else []),
        f"| {' | '.join(table.columns)} |",
        f"|{'|'.join(rules)}|",
        *(f"| {' | '.join(row)} |" for row in table.rows),
        "",
    ]


def _minutes(finding: Finding) -> str:
    seeds = "one seed" if len(finding.seeds) == 1 else f"{len(finding.seeds)} seeds"
    return (
        f"{finding.processor_minutes:g} processor minutes for {seeds}, with the training that "
        f"other experiments share; {finding.minutes:g} minutes passed on the clock, beside "
        "whatever else the machine did."
    )
