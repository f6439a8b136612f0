"""Any OpenAI-compatible endpoint, asked through the official client.

The client's transport is aiohttp and its own retries are off: a call costs about 1 ms of CPU
(the typed method with the default transport: about 5), and every retry is ours, counted.
"""

from __future__ import annotations

import asyncio
import email.utils
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from laterna.errors import LaternaError
from laterna.records import Message, Reply, Usage
from laterna.synthesis.cost import estimate_tokens
from laterna.synthesis.limits import Limits
from laterna.synthesis.settings import OPENAI_URL, Endpoint, read_key, read_parameters
from laterna.synthesis.teachers.base import Identity, NoAnswer

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
"""Seconds before the second try, doubled for each further one up to the longest."""
_LONGEST_WISH = 600.0
"""The longest Retry-After that is honoured as it is, in seconds."""
_TRIED_AGAIN = frozenset((408, 409, 425, 429))
_OUR_FAULT = frozenset((401, 403, 404, 405))
"""No other request would fare better: the key, the address or the model is wrong."""
_FAILURES_IN_A_ROW = 20
"""Requests left unanswered one after the other before the run is given up."""
_USUAL_REPLY = 300.0
"""Tokens of a reply, until some have come."""


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Said(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None


class _Choice(msgspec.Struct):
    message: _Said
    finish_reason: str | None = None


class Completion(msgspec.Struct):
    """What we read of a chat completion."""

    choices: list[_Choice]
    usage: _Usage | None = None


_DECODER = msgspec.json.Decoder(Completion)


def read_completion(body: bytes | msgspec.Raw) -> Reply:
    """Return the reply in a chat completion; raise msgspec's errors where it is none."""
    completion = _DECODER.decode(body)
    if not completion.choices:
        raise msgspec.ValidationError("a completion without a choice")
    said, used = completion.choices[0], completion.usage or _Usage()
    return Reply(
        text=said.message.content or said.message.refusal or "",
        finish_reason=said.finish_reason or "",
        usage=Usage(prompt_tokens=used.prompt_tokens, completion_tokens=used.completion_tokens),
    )


def openai_identity(endpoint: Endpoint) -> Identity:
    """Return who an endpoint is; the batch API of the same endpoint is the same."""
    if not endpoint.model:
        raise LaternaError("name the model to ask: --model NAME")
    parameters = read_parameters(endpoint.parameters)
    for name in ("temperature", "top_p", "max_tokens"):
        value = getattr(endpoint, name)
        if value is not None:
            parameters[name] = msgspec.Raw(msgspec.json.encode(value))
    for taken in ("model", "messages", "stream"):
        if taken in parameters:
            raise LaternaError(f"parameter {taken!r} cannot be set")
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


def open_client(endpoint: Endpoint) -> AsyncOpenAI:
    """Return the official client; its key comes from the environment and stays in it."""
    import httpx2  # the official client's own
    from openai import AsyncOpenAI, DefaultAioHttpClient

    connections = endpoint.concurrency + 8
    limits = httpx2.Limits(max_connections=connections, max_keepalive_connections=connections)
    return AsyncOpenAI(
        api_key=read_key(endpoint.key_variable),
        base_url=endpoint.base_url or OPENAI_URL,
        max_retries=0,
        timeout=endpoint.timeout,
        http_client=DefaultAioHttpClient(limits=limits, timeout=endpoint.timeout),
    )


class OpenAITeacher:
    """Asks one endpoint within its limits, and tries again what may succeed later.

    `before_call` runs right before each call and may raise to forbid it (the budget does).
    `retries` counts tries that failed, by reason.
    """

    def __init__(self, endpoint: Endpoint, before_call: Callable[[], None]) -> None:
        self.identity = openai_identity(endpoint)
        # More than may be in flight: while some wait for the ledger, others are on their way.
        self.at_once = 2 * endpoint.concurrency + 16
        self.retries: Counter[str] = Counter()
        self._tries = endpoint.tries
        self._before_call = before_call
        self._limits = Limits(
            endpoint.concurrency, endpoint.requests_per_minute, endpoint.tokens_per_minute
        )
        self._client = open_client(endpoint)
        self._usual_reply = _USUAL_REPLY
        self._failed_in_a_row = 0

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return the endpoint's reply.

        Raises NoAnswer when it gave none in all tries, and LaternaError when no request can
        succeed: a wrong key, address or model, or an endpoint that answers nothing any more.
        """
        body = request_body(self.identity, messages)
        estimate = estimate_tokens(messages)
        for number in range(self._tries):
            try:
                reply = await self._call(body, estimate)
            except _Failure as failure:
                self.retries[failure.reason] += 1
                if not failure.passing or number + 1 == self._tries:
                    self._give_up(failure)
                await asyncio.sleep(max(backoff(number), failure.wait))
            else:
                self._failed_in_a_row = 0
                return reply
        raise AssertionError("unreachable: the last try returns or raises")

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    def _give_up(self, failure: _Failure) -> None:
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= _FAILURES_IN_A_ROW:
            raise LaternaError(
                f"{self.identity.base_url}: {self._failed_in_a_row} requests in a row got no "
                f"answer, the last: {failure}; what was answered is in the ledger: run again"
            ) from failure
        raise NoAnswer(f"no answer: {failure.reason}", str(failure)) from failure

    async def _call(self, body: bytes, estimate: int) -> Reply:
        import httpx2
        import openai

        tokens = estimate + self._usual_reply
        async with self._limits.slot(tokens):
            self._before_call()
            started = time.monotonic()
            try:
                response = await self._client.post(
                    "/chat/completions",
                    content=body,
                    cast_to=httpx2.Response,
                    options={"headers": {"Content-Type": "application/json"}},
                )
                reply = read_completion(response.content)
            except openai.APIStatusError as error:
                raise _failed_status(error, self._client.api_key) from error
            except openai.APIConnectionError as error:
                # Also of a connection that is refused, the client says that it timed out.
                connected = not isinstance(error.__cause__, httpx2.ConnectTimeout)
                late = connected and isinstance(error, openai.APITimeoutError)
                detail = str(error.__cause__ or error)
                raise _Failure("timeout" if late else "connection", detail, passing=True) from error
            except (msgspec.MsgspecError, httpx2.HTTPError) as error:
                raise _Failure("broken answer", str(error), passing=True) from error
            seconds = time.monotonic() - started
        used = reply.usage.prompt_tokens + reply.usage.completion_tokens
        if used:
            self._limits.settle(tokens, used)
            self._usual_reply += 0.05 * (reply.usage.completion_tokens - self._usual_reply)
        return msgspec.structs.replace(reply, seconds=seconds)


class _Failure(Exception):  # noqa: N818
    """One try that failed; a passing failure may be tried again after `wait` seconds."""

    def __init__(self, reason: str, detail: str, *, passing: bool, wait: float = 0.0) -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.passing, self.wait = reason, passing, wait


def _failed_status(error: APIStatusError, key: str) -> _Failure:
    """Return what an HTTP error means; raise LaternaError for those that no retry mends."""
    status = error.status_code
    message = without_key(error.message, key)
    if status in _OUR_FAULT or error.code == "insufficient_quota":
        raise LaternaError(
            f"{error.request.url}: the endpoint refuses all requests "
            f"(HTTP {status}: {message}); see to the key, the address, the model or the quota"
        ) from error
    wait = retry_after(error)
    return _Failure(f"HTTP {status}", message, passing=may_pass(status), wait=wait)


def may_pass(status: int) -> bool:
    """Tell whether a request that failed with this HTTP status may succeed later."""
    return status in _TRIED_AGAIN or status >= 500


def retry_after(error: APIStatusError) -> float:
    """Return the seconds that the endpoint asks to wait, 0 where it does not say."""
    headers = error.response.headers
    return _wish(headers.get("retry-after-ms"), 0.001) or _wish(headers.get("retry-after"))


def without_key(message: str, key: str) -> str:
    """Return what an endpoint said without the key, which it may repeat."""
    return message.replace(key, "(the key)")


def _wish(text: str | None, unit: float = 1.0) -> float:
    """Return the seconds that a Retry-After asks for, given as a number or as a date."""
    if not text:
        return 0.0
    try:
        seconds = float(text) * unit
    except ValueError:
        parsed = email.utils.parsedate_tz(text)
        seconds = email.utils.mktime_tz(parsed) - time.time() if parsed else 0.0
    return min(max(0.0, seconds), _LONGEST_WISH)


def backoff(number: int) -> float:
    """Return the wait after try `number` (from 0): doubled each time, half of it at random."""
    longest = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0**number)
    return longest * random.uniform(0.5, 1.0)
