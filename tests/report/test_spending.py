"""What a synthesis cost, told in lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from laterna.errors import LaternaError
from laterna.records import Usage
from laterna.report.inspection import cost_lines, read_cost
from laterna.synthesis.budget import Prices
from laterna.synthesis.ledger_rows import Totals
from laterna.synthesis.settings import Spending
from laterna.synthesis.teachers.base import Identity


def total(model: str, answers: int) -> Totals:
    return Totals(
        identity=Identity(teacher="openai", model=model),
        answers=answers,
        usage=Usage(prompt_tokens=2_000_000, completion_tokens=500_000),
        seconds=5.0,
    )


def test_a_model_has_a_line_with_its_dollars_where_the_price_is_known(tmp_path: Path) -> None:
    table = tmp_path / "prices.toml"
    table.write_text("[big]\ninput = 2.5\noutput = 10.0\n", encoding="utf-8")
    totals = [total("big", 2), total("small", 2), total("unasked", 0)]
    assert cost_lines(totals, Prices(Spending(prices=table))) == (
        (
            "big",
            "2 answers, 2,000,000 tokens read, 500,000 written, 2.5 s an answer, $10.00",
        ),
        (
            "small",
            "2 answers, 2,000,000 tokens read, 500,000 written, 2.5 s an answer, price not known",
        ),
    )


def test_a_missing_ledger_is_named_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(LaternaError, match=r"none\.sqlite: no such ledger"):
        read_cost(tmp_path / "none.sqlite", Spending())
    assert list(tmp_path.iterdir()) == []
