from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from laterna.errors import LaternaError
from laterna.records import Message, Reply, Usage
from laterna.synthesis.budget import Budget, BudgetSpent, Forecast, Prices, estimate_tokens
from laterna.synthesis.ledger import Ledger, Totals
from laterna.synthesis.settings import Endpoint, Spending
from laterna.synthesis.teachers.base import Identity

TABLE = '["gpt"]\ninput = 2.5\noutput = 10.0\n["free"]\ninput = 0\noutput = 0\n'
USED = Usage(prompt_tokens=1_000_000, completion_tokens=100_000)


def totals(model: str, answers: int = 4) -> Totals:
    return Totals(
        identity=Identity(teacher="openai", model=model), answers=answers, usage=USED, seconds=8.0
    )


def table(folder: Path, text: str = TABLE) -> Path:
    path = folder / "prices.toml"
    path.write_text(text)
    return path


def test_prices_come_from_the_flags_before_the_table(tmp_path: Path) -> None:
    by_table = Prices(Spending(prices=table(tmp_path)))
    assert by_table.spent([totals("gpt"), totals("free")]) == pytest.approx(3.5)
    assert by_table.of("other") is None
    assert by_table.spent([totals("other")]) is None
    assert by_table.spent([totals("other", answers=0)]) == 0
    flags = Prices(Spending(prices=table(tmp_path), input_price=1, output_price=20))
    assert flags.spent([totals("other")]) == pytest.approx(3.0)
    assert Prices(Spending(output_price=20)).spent([totals("x")]) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("gpt = 3", "not a price table"),
        ("[gpt]\ninput = 1\n", "not a price table"),
        ("[gpt]\ninput = 1\noutput = 1\ncached = 1\n", "not a price table"),
        ("[gpt", "not a price table"),
        ("[gpt]\ninput = -1\noutput = 1\n", "a price cannot be negative"),
    ],
)
def test_a_bad_table_is_named(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(LaternaError, match=complaint):
        Prices(Spending(prices=table(tmp_path, text)))
    with pytest.raises(LaternaError, match=r"none\.toml: no such price table"):
        Prices(Spending(prices=tmp_path / "none.toml"))


def test_the_purse_counts_what_is_not_committed_yet(tmp_path: Path) -> None:
    prices = Prices(Spending(input_price=2.5, output_price=10.0))
    with Ledger(tmp_path / "l") as ledger:
        budget = Budget(ledger, "gpt", prices, 3.0)
        budget.check()
        budget.pay(USED)
        assert budget.spent() == pytest.approx(3.5)
        with pytest.raises(BudgetSpent, match=r"the budget is spent: \$3.0"):
            budget.check()
        budget.committed(USED)
        assert budget.spent() == pytest.approx(0.0)
        ledger.totals = (totals("gpt"),)
        with pytest.raises(BudgetSpent):
            budget.check()


def test_a_budget_needs_prices(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l") as ledger:
        with pytest.raises(LaternaError, match="a budget needs the price of 'gpt'"):
            Budget(ledger, "gpt", Prices(Spending()), 1.0)
        assert Budget(ledger, "gpt", Prices(Spending()), None).spent() == 0


def test_a_forecast_adds_up() -> None:
    messages = (Message(role="system", content="x" * 360), Message(role="user", content="y" * 36))
    assert estimate_tokens(messages) == 99 + 8
    forecast = Forecast(None)
    for kind in ("detail", "detail", "reasoning"):
        forecast.add(kind, messages)  # type: ignore[arg-type]
    forecast.add("detail", messages, Reply(text="", finish_reason="stop"))
    assert forecast.usage == Usage(prompt_tokens=321, completion_tokens=600)
    assert forecast.hours(Endpoint(concurrency=2)) == pytest.approx(15 / 3600)
    assert forecast.hours(Endpoint(requests_per_minute=1)) == pytest.approx(3 / 60)
    assert forecast.hours(Endpoint(tokens_per_minute=92.1)) == pytest.approx(10 / 60)
    price = Prices(Spending(input_price=1000, output_price=10_000)).of("any")
    assert forecast.line(Endpoint(concurrency=2), price) == (
        "nothing asked; to ask: 3 requests (2 detail, 1 reasoning), answered before: 1; about "
        "321 tokens to read and 600 to write (estimated: 4 characters a token, numbers by the "
        "digit; 288 to read where three digits are one token, as OpenAI's, assumed lengths and "
        "times), $6.32 and 0.00 hours"
    )
    assert "an unknown sum (no price given)" in forecast.line(Endpoint(), None)


def test_a_forecast_learns_from_the_ledger() -> None:
    known = msgspec.structs.replace(totals("gpt"), answers=4, seconds=8.0)
    forecast = Forecast(known)
    forecast.add("detail", (Message(role="user", content="x"),))
    assert forecast.written == 25_000
    assert forecast.hours(Endpoint(concurrency=1)) == pytest.approx(2 / 3600)


def test_a_forecast_counts_tokens_as_the_endpoint_did() -> None:
    def asked(letters: int) -> tuple[Message, ...]:
        return (Message(role="user", content="x" * letters),)

    forecast = Forecast(None)
    for usage in (Usage(prompt_tokens=70), Usage(), Usage(prompt_tokens=9, estimated=1)):
        forecast.add("detail", asked(384), Reply(text="", finish_reason="stop", usage=usage))
    forecast.add("detail", asked(784))
    assert forecast.read == 200 * 70 / 100  # by its count of the first, told for 100 by ours
    assert "140 tokens to read and 150 to write (estimated: as the endpoint counted so far" in (
        forecast.line(Endpoint(), None)
    )
