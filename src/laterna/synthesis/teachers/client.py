"""The official client behind bounds: in calls in flight and a minute, in time, in size.

Whatever goes wrong with a call comes out as one `Failure`, which says what the endpoint said,
whether another try may help, and whether the call may have been billed all the same.
"""

from __future__ import annotations

import asyncio
import email.utils
import math
import random
import sys
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from laterna.errors import LaternaError
from laterna.progress import spelled
from laterna.synthesis.settings import OPENAI_URL, Endpoint, read_key
from laterna.synthesis.teachers.foreign import NoReply, read_json, said_in, without_key

if TYPE_CHECKING:
    import httpx2
    from openai import AsyncOpenAI

ANSWER_BYTES = 8 * 2**20
"""The longest answer that is read: a hundred times the longest reply of any model."""
FILE_BYTES = 512 * 2**20
"""The longest file of a batch that is read."""
FILE_TIMES = 10.0
"""How many times the time limit of a call a batch's file may take, up or down."""
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
"""Seconds before the second try, doubled for each further one up to the longest."""
LONGEST_WISH = 600.0
"""The longest Retry-After that a run waits for, in seconds; a longer one ends it."""
_SAID_FROM = 10.0
"""Seconds of a Retry-After from which on the wait is said."""
_said_until: dict[str, float] = {}
"""Up to when a wait was said, by endpoint: many calls wait at once, and say it once."""
_BURST_SECONDS = 1.0
"""Unused allowance that may be caught up at once, in seconds of the rate: endpoints that
promise a rate a minute also look at shorter spans."""
_TRIED_AGAIN = frozenset((408, 409, 425, 429))
_OUR_FAULT = frozenset((401, 402, 403, 404, 405))
"""No other request would fare better: the key, the money, the address or the model is wrong."""
_BILLED = frozenset((502, 504, *range(520, 528)))
"""A gateway gave up on a model that may have answered."""


_T = TypeVar("_T")


class Failure(Exception):  # noqa: N818  (most are tried again)
    """A call that got no answer."""

    def __init__(
        self,
        reason: str,
        said: str = "",
        *,
        passing: bool = True,
        billed: bool = False,
        hopeless: bool = False,
        wait: float = 0.0,
        body: bytes = b"",
    ) -> None:
        """Tell what happened.

        `passing`: it may succeed when tried again, after `wait` seconds; `billed`: it may have
        been paid for, and `body` is what came for it; `hopeless`: no other request would fare
        better.
        """
        super().__init__(f"{reason}: {said}" if said else reason)
        self.reason, self.said, self.wait = reason, said, wait
        self.passing, self.billed, self.hopeless = passing, billed, hopeless
        self.body = body


def open_client(endpoint: Endpoint) -> AsyncOpenAI:
    """Return the official client; its key comes from the environment and stays in it."""
    import httpx2  # the official client's own
    from aiohttp import ClientError
    from openai import AsyncOpenAI, DefaultAioHttpClient

    key = read_key(endpoint.key_variable)
    connections = endpoint.concurrency + 8
    limits = httpx2.Limits(max_connections=connections, max_keepalive_connections=connections)

    class Bounded(DefaultAioHttpClient):
        """Raises Failure where a call fails, is late, or answers without end."""

        async def send(self, request: httpx2.Request, **_: Any) -> httpx2.Response:
            is_file = "/files" in request.url.path
            seconds = endpoint.timeout * (FILE_TIMES if is_file else 1.0)
            try:
                async with asyncio.timeout(seconds):
                    response = await super().send(request, stream=True, follow_redirects=False)
                    try:
                        body = await _read(response, FILE_BYTES if is_file else ANSWER_BYTES)
                    finally:
                        await response.aclose()
            except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
                # Also of a connection that is refused, the transport says that it timed out.
                raise Failure("connection", without_key(str(error), key)) from error
            except (TimeoutError, httpx2.TimeoutException) as error:
                told = f"no whole answer within {seconds:g} s"
                raise Failure("timeout", told, billed=True) from error
            except (httpx2.HTTPError, ClientError, OSError, ValueError, zlib.error) as error:
                raise Failure("connection", without_key(str(error), key), billed=True) from error
            if not response.is_success:
                raise failed_status(response, body, key)
            return httpx2.Response(200, content=body, request=request)

    return AsyncOpenAI(
        api_key=key,
        base_url=endpoint.base_url or OPENAI_URL,
        max_retries=0,
        default_headers={"Accept-Encoding": "gzip, identity"},
        http_client=Bounded(limits=limits, timeout=endpoint.timeout),
    )


async def _read(response: httpx2.Response, limit: int) -> bytes:
    """Return a body, unpacked; raise Failure where it is longer than the limit."""
    coding = response.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity", "gzip", "x-gzip", "deflate"):
        raise Failure("broken answer", f"packed as {coding!r}, not asked for", billed=True)
    packed = None if coding in ("", "identity") else zlib.decompressobj(zlib.MAX_WBITS | 32)
    body = bytearray()
    async for raw in response.aiter_raw():
        body += packed.decompress(raw, limit + 1 - len(body)) if packed else raw
        if len(body) > limit:
            said = f"an answer of more than {limit // 2**20} MiB"
            raise Failure("broken answer", said, billed=True)
    return bytes(body)


def failed_status(response: httpx2.Response, body: bytes, key: str) -> Failure:
    """Return what an answer with a status other than good means."""
    status, headers = response.status_code, response.headers
    if 300 <= status < 400:
        parts = urlsplit(str(response.url.join(headers.get("location", ""))))
        there = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        said = f"it sends to {there}, which is not followed; name the right address (--base-url)"
        return Failure(f"HTTP {status}", without_key(said, key), passing=False, hopeless=True)
    wait = _wish(headers.get("retry-after-ms"), 0.001) or _wish(headers.get("retry-after"))
    try:
        found = read_json(body)
    except NoReply as error:
        found = error.said
    return told_failure(status, found, key, wait=wait, billed=status in _BILLED)


def no_reply(error: NoReply, body: bytes, key: str) -> Failure:
    """Return what it means that a good answer's body holds none."""
    failure = told_failure(error.status, error.said, key, billed=True)
    failure.body = body
    return failure


def told_failure(
    status: int | None, found: object, key: str, *, billed: bool, wait: float = 0.0
) -> Failure:
    """Return the failure that an error's body tells; without a status, it is a broken answer."""
    reason = f"HTTP {status}" if status else "broken answer"
    said = without_key(said_in(found), key)
    error = found.get("error") if isinstance(found, dict) else None
    spent = isinstance(error, dict) and error.get("code") == "insufficient_quota"
    passing = status is None or may_pass(status)
    hopeless = status in _OUR_FAULT or spent
    return Failure(reason, said, passing=passing, billed=billed, hopeless=hopeless, wait=wait)


def give_up(base_url: str, failure: Failure) -> LaternaError:
    """Return the sentence for a failure that ends the run."""
    return LaternaError(
        f"{base_url}: the endpoint refuses all requests ({failure}); see to the key, the address, "
        "the model or the quota; what was answered is in the ledger: run again"
    )


async def try_again(call: Callable[[], Awaitable[_T]], tries: int, base_url: str) -> _T:
    """Return what a call returns; tried again where it may succeed later.

    What an endpoint asks to wait (Retry-After) is waited and said. Raises the Failure of the last
    try, and LaternaError where no request would fare better, or only after `LONGEST_WISH`.
    """
    for number in range(tries):
        try:
            return await call()
        except Failure as failure:
            if failure.hopeless:
                raise give_up(base_url, failure) from failure
            if not failure.passing or number + 1 == tries:
                raise
            _heed(failure, base_url)
            await asyncio.sleep(max(backoff(number), failure.wait))
    raise AssertionError("unreachable: the last try returns or raises")


def _heed(failure: Failure, base_url: str) -> None:
    """Say a wait that an endpoint asks for; raise LaternaError for one that is too long."""
    asked = f"{base_url}: the endpoint asks to wait {spelled(failure.wait)} ({failure})"
    if failure.wait > LONGEST_WISH:
        raise LaternaError(
            f"{asked}, and a run waits {spelled(LONGEST_WISH)} at most; what was answered is in "
            "the ledger: run the same command again after that time"
        ) from failure
    now = time.monotonic()
    if failure.wait >= _SAID_FROM and now >= _said_until.get(base_url, 0.0):
        _said_until[base_url] = now + failure.wait
        sys.stderr.write(f"{asked}; waiting\n")


def may_pass(status: int) -> bool:
    """Tell whether a request that failed with this HTTP status may succeed later."""
    return status in _TRIED_AGAIN or status >= 500


def backoff(number: int) -> float:
    """Return the wait after try `number` (from 0): doubled each time, half of it at random."""
    longest = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0**number)
    return longest * random.uniform(0.5, 1.0)


def _wish(text: str | None, unit: float = 1.0) -> float:
    """Return the seconds that a Retry-After asks for, given as a number or as a date."""
    if not text:
        return 0.0
    try:
        seconds = float(text) * unit
    except ValueError:
        try:
            parsed = email.utils.parsedate_tz(text)
            seconds = email.utils.mktime_tz(parsed) - time.time() if parsed else 0.0
        except (ValueError, OverflowError):
            return 0.0
    return max(0.0, seconds) if math.isfinite(seconds) else 0.0


class RateLimiter:
    """A token bucket: lets through so much a minute, in the order of asking.

    It keeps the time at which all that was let through is paid for, and may run ahead of it by
    the burst only; an amount larger than the burst passes and is paid for by those after it.
    """

    def __init__(
        self,
        per_minute: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Prepare a bucket; `per_minute` 0 lets everything through."""
        self._seconds_each = 60 / per_minute if per_minute else 0.0
        self._clock = clock
        self._sleep = sleep
        self._paid_until = clock()

    async def take(self, amount: float = 1) -> None:
        """Wait until this amount may pass."""
        if not self._seconds_each:
            return
        now = self._clock()
        start = max(self._paid_until, now - _BURST_SECONDS)
        self._paid_until = start + amount * self._seconds_each
        if start > now:
            await self._sleep(start - now)

    def settle(self, difference: float) -> None:
        """Correct an amount that was taken by estimate: what it was more (or less) in truth."""
        self._paid_until += difference * self._seconds_each


class Limits:
    """The three limits of one endpoint together."""

    def __init__(
        self,
        concurrency: int,
        requests_per_minute: float = 0,
        tokens_per_minute: float = 0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Prepare the limits; a rate of 0 is no limit."""
        self._slots = asyncio.Semaphore(concurrency)
        self._requests = RateLimiter(requests_per_minute, clock, sleep)
        self._tokens = RateLimiter(tokens_per_minute, clock, sleep)

    @asynccontextmanager
    async def slot(self, tokens: float) -> AsyncIterator[None]:
        """Hold one call in flight, of so many tokens by estimate; wait until it may start."""
        async with self._slots:
            await self._requests.take()
            await self._tokens.take(tokens)
            yield

    def settle(self, estimated: float, used: float) -> None:
        """Tell how many tokens a call used in truth."""
        self._tokens.settle(used - estimated)
