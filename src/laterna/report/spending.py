"""What a synthesis cost, as its ledger counted it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from laterna.report.parts import NamedTexts
from laterna.synthesis.budget import Prices
from laterna.synthesis.ledger import Ledger
from laterna.synthesis.ledger_rows import Totals
from laterna.synthesis.settings import Spending


def read_cost(ledger: Path, spending: Spending) -> NamedTexts:
    """Return the lines of a ledger's cost; raise LaternaError for a file that is no ledger."""
    with Ledger(ledger, create=False) as opened:
        return cost_lines(opened.totals, Prices(spending))


def cost_lines(totals: Iterable[Totals], prices: Prices) -> NamedTexts:
    """Return, for each model that answered, its answers, tokens, time and dollars."""
    lines: list[tuple[str, str]] = []
    for total in totals:
        if not total.answers:
            continue
        spent = prices.spent([total])  # calls without an answer that may have been billed, too
        dollars = "price not known" if spent is None else f"${spent:,.2f}"
        lines.append(
            (
                total.identity.model,
                f"{total.answers:,} answers, {total.usage.prompt_tokens:,} tokens read, "
                f"{total.usage.completion_tokens:,} written, "
                f"{total.seconds / total.answers:.1f} s an answer, {dollars}",
            )
        )
    return tuple(lines)
