"""Any OpenAI-compatible endpoint, asked through the official client.

The client's transport is aiohttp and its own retries are off: a call costs about 1 ms of CPU
(the typed method with the default transport: about 5), and before every retry the budget is asked.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NoReturn

import msgspec

from laterna.errors import LaternaError
from laterna.records import Message, Reply, Usage
from laterna.synthesis.budget import Budget
from laterna.synthesis.settings import Endpoint, read_parameters
from laterna.synthesis.teachers.base import Failed, Failures, Identity, NoAnswer
from laterna.synthesis.teachers.client import Failure, Limits, no_reply, open_client, try_again
from laterna.synthesis.teachers.foreign import NoReply, estimate_tokens, read_reply

_FAILURES_IN_A_ROW = 20
"""Requests left unanswered one after the other before the run is given up."""
USUAL_REPLY = 300.0
"""Tokens of a reply, until some have come."""


def openai_identity(endpoint: Endpoint) -> Identity:
    """Return who an endpoint is; the batch API of the same endpoint is the same."""
    if not endpoint.model:
        raise LaternaError("name the model to ask: --model NAME")
    parameters = read_parameters(endpoint.parameters)
    for name in ("temperature", "top_p", "max_tokens"):
        value = getattr(endpoint, name)
        if value is None:
            continue
        if name in parameters:
            option = name.replace("_", "-")
            raise LaternaError(f"parameter {name!r} and --{option}: give one of them")
        parameters[name] = msgspec.Raw(msgspec.json.encode(value))
    return Identity(
        teacher="openai",
        model=endpoint.model,
        base_url=endpoint.base_url.rstrip("/"),
        parameters=parameters,
    )


def request_body(identity: Identity, messages: Sequence[Message]) -> bytes:
    """Return the JSON that is sent for a request."""
    content = {"model": identity.model, "messages": messages, **identity.parameters}
    return msgspec.json.encode(content)


class OpenAITeacher:
    """Asks one endpoint within its limits, and tries again what may succeed later.

    The budget is asked right before each call, and told of every call that failed.
    """

    def __init__(self, endpoint: Endpoint, budget: Budget) -> None:
        self.identity = openai_identity(endpoint)
        # More than may be in flight: while some wait for the ledger, others are on their way.
        self.at_once = 2 * endpoint.concurrency + 16
        self.failures = Failures()
        self._tries = endpoint.tries
        self._budget = budget
        self._limits = Limits(
            endpoint.concurrency, endpoint.requests_per_minute, endpoint.tokens_per_minute
        )
        self._client = open_client(endpoint)
        self._usual_reply = USUAL_REPLY
        self._failed_in_a_row = 0

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return the endpoint's reply.

        Raises NoAnswer when it gave none in all tries, and LaternaError when no request can
        succeed: a wrong key, address or model, or an endpoint that answers nothing any more.
        """
        body = request_body(self.identity, messages)
        estimate = estimate_tokens(messages)
        last: Failure | None = None

        async def call() -> Reply:
            nonlocal last
            try:
                return await self._call(body, estimate)
            except NoAnswer as forbidden:
                if last is None:
                    raise
                detail = f"{forbidden.detail}; the call before: {last}"
                raise NoAnswer(forbidden.reason, detail) from last
            except Failure as failure:
                last = failure
                raise

        try:
            reply = await try_again(call, self._tries, self.identity.base_url)
        except Failure as failure:
            self._give_up(failure)
        self._failed_in_a_row = 0
        return reply

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    def _give_up(self, failure: Failure) -> NoReturn:
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= _FAILURES_IN_A_ROW:
            raise LaternaError(
                f"{self.identity.base_url}: {self._failed_in_a_row} requests in a row got no "
                f"answer, the last: {failure}; what was answered is in the ledger: run again"
            ) from failure
        raise NoAnswer(f"no answer: {failure.reason}", failure.said) from failure

    async def _call(self, body: bytes, estimate: int) -> Reply:
        tokens = estimate + self._usual_reply
        async with self._limits.slot(tokens):
            self._budget.check()
            started = time.monotonic()
            try:
                reply = await self._post(body, estimate)
            except Failure as failure:
                self.failures.add(failure.reason, failure.said)
                # Told before the next call may start: it may have been billed.
                used = self._guess(estimate) if failure.billed else Usage()
                failed = Failed(
                    reason=failure.reason, said=failure.said, used=used, body=failure.body
                )
                await self._budget.failed(self.identity, failed)
                raise
            seconds = time.monotonic() - started
        if not reply.usage.estimated:
            written = reply.usage.completion_tokens
            self._limits.settle(tokens, reply.usage.prompt_tokens + written)
            self._usual_reply += 0.05 * (written - self._usual_reply)
        return msgspec.structs.replace(reply, seconds=seconds)

    def _guess(self, estimate: int) -> Usage:
        written = round(self._usual_reply)
        return Usage(prompt_tokens=estimate, completion_tokens=written, estimated=1)

    async def _post(self, body: bytes, estimate: int) -> Reply:
        import httpx2

        response = await self._client.post(
            "/chat/completions",
            content=body,
            cast_to=httpx2.Response,
            options={"headers": {"Content-Type": "application/json"}},
        )
        content = response.content
        try:
            reply = read_reply(content, estimate)
        except NoReply as error:
            raise no_reply(error, content, self._client.api_key) from error
        return msgspec.structs.replace(reply, body=content)
