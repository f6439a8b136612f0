"""What a run will cost before it is run, what it has cost, and when to stop."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Sequence

import msgspec

from laterna.errors import LaternaError
from laterna.records import Kind, Message, Record, Usage
from laterna.synthesis.ledger import Ledger, Totals
from laterna.synthesis.settings import Endpoint, Spending
from laterna.synthesis.teachers.base import NoAnswer

_MILLION = 1_000_000
CHARACTERS_A_TOKEN = 4.0
"""A rule of thumb for English and the tokenisers of today, good to about a quarter."""
MESSAGE_TOKENS = 4
"""What a chat's frame adds to each message."""
REPLY_TOKENS: dict[Kind, int] = {
    "conversation": 650,
    "detail": 150,
    "reasoning": 300,
    "negative": 200,
    "refusal": 120,
}
"""Length of a reply until the ledger knows better (from the published GPT-4 replies, rounded;
conversations as long as our examples, which set their length)."""
CALL_SECONDS = 10.0
"""How long a call takes until the ledger knows better."""


class Price(Record):
    """US dollars a million tokens."""

    input: float
    output: float

    def of(self, usage: Usage) -> float:
        """Return what these tokens cost, in US dollars."""
        read, written = usage.prompt_tokens, usage.completion_tokens
        return (read * self.input + written * self.output) / _MILLION


class Prices:
    """The price of each model, from the flags or the table; None where nobody said."""

    def __init__(self, spending: Spending) -> None:
        """Read the table; raise LaternaError when it is no table of prices."""
        self._everywhere: Price | None = None
        self._table: dict[str, Price] = {}
        flags = (spending.input_price, spending.output_price)
        if any(flag is not None for flag in flags):
            read, written = (flag or 0.0 for flag in flags)
            self._everywhere = Price(input=read, output=written)
        if spending.prices is not None:
            try:
                with spending.prices.open("rb") as file:
                    self._table = msgspec.convert(tomllib.load(file), dict[str, Price])
            except FileNotFoundError as error:
                raise LaternaError(f"{spending.prices}: no such price table") from error
            except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
                raise LaternaError(
                    f"{spending.prices}: not a price table ({error}); for each model write "
                    '["MODEL"], input = DOLLARS and output = DOLLARS, a million tokens'
                ) from error
        numbers = [*self._table.values(), *([self._everywhere] if self._everywhere else [])]
        if any(min(price.input, price.output) < 0 for price in numbers):
            raise LaternaError("a price cannot be negative")

    def of(self, model: str) -> Price | None:
        """Return the price of a model, None where nobody said."""
        return self._everywhere or self._table.get(model)

    def spent(self, totals: Iterable[Totals]) -> float | None:
        """Return what a ledger's answers cost, None when a model's price is not known."""
        cost = 0.0
        for total in totals:
            price = self.of(total.identity.model)
            if price is None and total.answers:
                return None
            cost += price.of(total.usage) if price else 0.0
        return cost


class BudgetSpent(NoAnswer):
    """A call that was not made because the budget is spent."""

    def __init__(self, budget: float) -> None:
        super().__init__("not asked: the budget is spent", f"${budget}")


class Purse:
    """Watches the budget: asked before each call, told after each answer.

    Counts the whole ledger, so that a run resumed with the same budget does not spend it again,
    and answers that are not committed yet. Calls in flight are all that may exceed it.
    """

    def __init__(self, ledger: Ledger, model: str, prices: Prices, budget: float | None) -> None:
        """Prepare; raise LaternaError for a budget without the prices to keep it."""
        self._ledger, self._prices, self._budget = ledger, prices, budget
        self._price = prices.of(model)
        self._uncommitted = 0.0
        if budget is not None and (self._price is None or prices.spent(ledger.totals) is None):
            raise LaternaError(
                f"a budget needs the price of {model!r} and of every model in {ledger.path}: "
                "give --prices FILE, or --input-price and --output-price"
            )

    def check(self) -> None:
        """Raise BudgetSpent when no further call may start."""
        if self._budget is not None and (self.spent() or 0.0) >= self._budget:
            raise BudgetSpent(self._budget)

    def spent(self) -> float | None:
        """Return what was spent so far, in US dollars; None when the price is not known."""
        committed = self._prices.spent(self._ledger.totals)
        return None if committed is None else committed + self._uncommitted

    def pay(self, usage: Usage) -> None:
        """Count an answer that came."""
        self._uncommitted += self._price.of(usage) if self._price else 0.0

    def committed(self, usage: Usage) -> None:
        """Count an answer no more: from now on the ledger does."""
        self._uncommitted -= self._price.of(usage) if self._price else 0.0


def estimate_tokens(messages: Sequence[Message]) -> int:
    """Return about how many tokens a chat is: characters by four, and each message's frame."""
    characters = sum(len(message.content) for message in messages)
    return round(characters / CHARACTERS_A_TOKEN) + MESSAGE_TOKENS * len(messages)


class Forecast:
    """What is still to ask, gathered request by request without asking anything."""

    def __init__(self, known: Totals | None) -> None:
        """Prepare; `known` is what the same teacher's earlier answers came to."""
        self._known = known if known and known.answers else None
        self.answered = 0
        self.requests: dict[Kind, int] = {}
        self.read = 0
        self.written = 0

    def add(self, kind: Kind, messages: Sequence[Message], *, answered: bool) -> None:
        """Count one request."""
        if answered:
            self.answered += 1
            return
        self.requests[kind] = self.requests.get(kind, 0) + 1
        self.read += estimate_tokens(messages)
        if self._known:
            self.written += round(self._known.usage.completion_tokens / self._known.answers)
        else:
            self.written += REPLY_TOKENS.get(kind, max(REPLY_TOKENS.values()))

    @property
    def usage(self) -> Usage:
        """Tokens to be read and written, by estimate."""
        return Usage(prompt_tokens=self.read, completion_tokens=self.written)

    def hours(self, endpoint: Endpoint) -> float:
        """Return how long it takes: the slowest of calls in flight, calls and tokens a minute."""
        calls = sum(self.requests.values())
        each = self._known.seconds / self._known.answers if self._known else CALL_SECONDS
        minutes = [calls * each / endpoint.concurrency / 60]
        if endpoint.requests_per_minute:
            minutes.append(calls / endpoint.requests_per_minute)
        if endpoint.tokens_per_minute:
            minutes.append((self.read + self.written) / endpoint.tokens_per_minute)
        return max(minutes) / 60

    def line(self, endpoint: Endpoint, price: Price | None) -> str:
        """Return the forecast as one line."""
        kinds = ", ".join(f"{number} {kind}" for kind, number in self.requests.items())
        cost = f"${price.of(self.usage):,.2f}" if price else "an unknown sum (no price given)"
        basis = "lengths and times as so far" if self._known else "assumed lengths and times"
        return (
            f"nothing asked; to ask: {sum(self.requests.values()):,} requests ({kinds or 'none'}),"
            f" answered before: {self.answered:,}; about {self.read:,} tokens to read and"
            f" {self.written:,} to write (estimated: 4 characters a token, {basis}),"
            f" {cost} and {self.hours(endpoint):.2f} hours"
        )
