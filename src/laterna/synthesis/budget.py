"""What a run will cost before it is run, what it has cost, and when to stop."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable, Sequence

import msgspec

from laterna.errors import LaternaError
from laterna.records import Kind, Message, Record, Reply, Usage
from laterna.synthesis.ledger import Ledger, Totals
from laterna.synthesis.settings import Endpoint, Spending
from laterna.synthesis.teachers.base import Failed, Identity, NoAnswer
from laterna.synthesis.teachers.foreign import estimate_tokens

_MILLION = 1_000_000
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
        found = [*self._table.values(), *([self._everywhere] if self._everywhere else [])]
        numbers = [number for price in found for number in (price.input, price.output)]
        if any(number < 0 or not math.isfinite(number) for number in numbers):
            raise LaternaError("a price cannot be negative, and must be a number")

    def of(self, model: str) -> Price | None:
        """Return the price of a model, None where nobody said."""
        return self._everywhere or self._table.get(model)

    def spent(self, totals: Iterable[Totals]) -> float | None:
        """Return what a ledger's calls cost, None when a model's price is not known.

        Calls without an answer that may have been billed are counted by estimate.
        """
        cost = 0.0
        for total in totals:
            price = self.of(total.identity.model)
            if price is None and (total.answers or total.lost.estimated):
                return None
            cost += price.of(total.usage) + price.of(total.lost) if price else 0.0
        return cost


class BudgetSpent(NoAnswer):
    """A call that was not made because the budget is spent."""

    def __init__(self, budget: float) -> None:
        super().__init__("not asked: the budget is spent", f"${budget}")


class Budget:
    """Watches the budget: asked before each call, told after each answer and each failure.

    Counts the whole ledger, so that a run resumed with the same budget does not spend it again,
    and answers that are not committed yet; every call that may have been billed counts, by
    estimate where the endpoint does not say. Calls in flight are all that may exceed it.
    """

    def __init__(self, ledger: Ledger, model: str, prices: Prices, budget: float | None) -> None:
        """Prepare; raise LaternaError for a budget without the prices to keep it."""
        self._ledger, self._prices, self._budget = ledger, prices, budget
        self._price = prices.of(model)
        self._uncommitted = 0.0
        if budget is not None and not 0 <= budget < math.inf:
            raise LaternaError(f"budget {budget}: it must be a number of dollars from 0")
        if budget is not None and (self._price is None or prices.spent(ledger.totals) is None):
            raise LaternaError(
                f"a budget needs the price of {model!r} and of every model in {ledger.path}: "
                "give --prices FILE, or --input-price and --output-price"
            )

    def check(self) -> None:
        """Raise BudgetSpent when no further call may start."""
        if self._budget is not None and (self.spent() or 0.0) >= self._budget:
            raise BudgetSpent(self._budget)

    def affordable(self, estimates: Sequence[Usage]) -> int:
        """Return how many of these calls, sent together, the rest of the budget is good for.

        At least one: a single call may exceed it.
        """
        left = math.inf if self._budget is None else self._budget - (self.spent() or 0.0)
        for number, usage in enumerate(estimates):
            left -= self._price.of(usage) if self._price else 0.0
            if left < 0:
                return max(1, number)
        return len(estimates)

    def estimated(self) -> int:
        """Return how many of the ledger's calls are counted by estimate."""
        return sum(total.usage.estimated + total.lost.estimated for total in self._ledger.totals)

    async def failed(self, identity: Identity, failed: Failed) -> None:
        """Count a call that got no answer; what it may have cost goes into the ledger."""
        self.pay(failed.used)
        try:
            await self._ledger.do(lambda rows: rows.fail(identity, failed))
        finally:
            self.committed(failed.used)

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


class Forecast:
    """What is still to ask, gathered request by request without asking anything."""

    def __init__(self, known: Totals | None) -> None:
        """Prepare; `known` is what the same teacher's earlier answers came to."""
        self._known = known if known and known.answers else None
        self.answered = 0
        self.requests: dict[Kind, int] = {}
        self._estimated = self._grouped = 0
        self._told, self._told_estimate = 0, 0
        self.written = 0

    def add(self, kind: Kind, messages: Sequence[Message], answered: Reply | None = None) -> None:
        """Count one request, or learn from its answer, if there is one."""
        estimate = estimate_tokens(messages)
        if answered is not None:
            self.answered += 1
            if not answered.usage.estimated and answered.usage.prompt_tokens:
                self._told += answered.usage.prompt_tokens
                self._told_estimate += estimate
            return
        self.requests[kind] = self.requests.get(kind, 0) + 1
        self._estimated += estimate
        self._grouped += estimate_tokens(messages, grouped=True)
        if self._known:
            self.written += round(self._known.usage.completion_tokens / self._known.answers)
        else:
            self.written += REPLY_TOKENS.get(kind, max(REPLY_TOKENS.values()))

    @property
    def read(self) -> int:
        """Tokens to be read: by the digit, or as the endpoint counted those of earlier requests."""
        if not self._told_estimate:
            return self._estimated
        return round(self._estimated * self._told / self._told_estimate)

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
        way = "4 characters a token, numbers by the digit"
        if self._told_estimate:
            way = "as the endpoint counted so far"
        elif self._estimated:
            way += f"; {self._grouped:,} to read where three digits are one token, as OpenAI's"
        return (
            f"nothing asked; to ask: {sum(self.requests.values()):,} requests ({kinds or 'none'}),"
            f" answered before: {self.answered:,}; about {self.read:,} tokens to read and"
            f" {self.written:,} to write (estimated: {way}, {basis}),"
            f" {cost} and {self.hours(endpoint):.2f} hours"
        )
