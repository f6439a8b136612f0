"""OpenAI's batch API: many requests in one file, answered within a day at a lower price.

What is sent is the same as one by one, so both share the ledger's answers. A batch is noted in
the ledger before it is made, under a tag that is sent along: a run killed at any moment finds
its batches again and collects them instead of paying twice.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from laterna.errors import LaternaError
from laterna.records import Message, Reply
from laterna.synthesis.ledger import Ledger
from laterna.synthesis.settings import Endpoint
from laterna.synthesis.teachers.base import NoAnswer, request_key
from laterna.synthesis.teachers.openai import (
    backoff,
    may_pass,
    open_client,
    openai_identity,
    read_completion,
    request_body,
    retry_after,
    without_key,
)

if TYPE_CHECKING:
    from openai.types import Batch

_PATH: Final = "/v1/chat/completions"
_WINDOW: Final = "24h"
_TAG = "laterna"
_QUIET_SECONDS = 0.5
"""A batch is sent once no request was added for so long: the ledger has claimed them all."""
_ENDED = frozenset(("completed", "failed", "expired", "cancelled"))

_T = TypeVar("_T")


class _Response(msgspec.Struct):
    status_code: int
    body: msgspec.Raw


class _Row(msgspec.Struct):
    """A line of a batch's output or error file."""

    custom_id: str
    response: _Response | None = None


class BatchTeacher:
    """Gathers requests into batches, sends them, looks after them and hands out the answers.

    `retries` counts rows that came back without an answer (expired, failed) and were asked again.
    """

    def __init__(self, endpoint: Endpoint, ledger: Ledger, before_call: Callable[[], None]) -> None:
        self.identity = openai_identity(endpoint)
        self.at_once = endpoint.batch_size
        self.retries: Counter[str] = Counter()
        self._endpoint = endpoint
        self._ledger = ledger
        self._before_call = before_call
        self._client = open_client(endpoint)
        self._start: asyncio.Task[None] | None = None
        self._waiting: dict[str, asyncio.Future[Reply]] = {}
        self._bodies: dict[str, bytes] = {}
        self._at_endpoint: set[str] = set()
        self._tried: Counter[str] = Counter()
        self._to_send: dict[str, None] = {}
        self._added = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return the reply once the batch that holds the request is done.

        Raises NoAnswer for a request that its batches never answered, and LaternaError when the
        endpoint takes no batch.
        """
        if self._start is None:
            self._start = asyncio.ensure_future(self._adopt())
        await asyncio.shield(self._start)
        key = request_key(self.identity, messages)
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting[key] = future
        self._bodies[key] = request_body(self.identity, messages)
        if key not in self._at_endpoint:
            self._enqueue(key)
        try:
            return await future
        finally:
            for kept in (self._waiting, self._bodies, self._to_send):
                kept.pop(key, None)

    async def close(self) -> None:
        """Stop looking after batches; those that are sent go on, and a later run collects them."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._client.close()

    async def _adopt(self) -> None:
        """Take over the batches of runs that ended before them, and begin to send our own."""
        found = await self._ledger.do(lambda rows: rows.adopt_batches(self.identity))
        for tag, batch_id, keys in found:
            self._at_endpoint.update(keys)
            self._begin(self._resume(tag, batch_id, keys))
        self._begin(self._send())

    def _enqueue(self, key: str) -> None:
        self._to_send[key] = None
        self._added.set()

    def _begin(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Hand an error of the work behind the scenes to everyone who waits for an answer."""
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is None:
            return
        for future in self._waiting.values():
            if not future.done():
                # One each: an exception gathers the traces of all who raise it.
                mendable = isinstance(error, LaternaError)
                future.set_exception(LaternaError(str(error)) if mendable else error)

    async def _send(self) -> None:
        while True:
            await self._added.wait()
            count = -1
            while count < len(self._to_send) < self._endpoint.batch_size:
                count = len(self._to_send)
                await asyncio.sleep(_QUIET_SECONDS)
            keys = list(self._to_send)[: self._endpoint.batch_size]
            for key in keys:
                del self._to_send[key]
            if not self._to_send:
                self._added.clear()
            keys = [key for key in keys if not self._answer_from_ledger(key)]
            if keys:
                self._at_endpoint.update(keys)
                self._begin(self._ask(keys))

    def _answer_from_ledger(self, key: str) -> bool:
        """Tell whether an adopted batch has answered a request since it was claimed."""
        reply = self._ledger.find(key)
        if reply is not None:
            self._waiting[key].set_result(reply)
        return reply is not None

    async def _ask(self, keys: list[str]) -> None:
        try:
            self._before_call()
        except NoAnswer as error:
            self._refuse(keys, error.reason, error.detail)
            return
        tag = uuid.uuid4().hex
        await self._ledger.do(lambda rows: rows.plan_batch(tag, self.identity, keys))
        lines = [
            b'{"custom_id":"%b","method":"POST","url":"%b","body":%b}\n'
            % (key.encode(), _PATH.encode(), self._bodies[key])
            for key in keys
        ]
        name = f"laterna-{tag}.jsonl"
        content = b"".join(lines)
        file = await self._patiently(
            lambda: self._client.files.create(file=(name, content), purpose="batch")
        )
        await self._follow(tag, await self._make(tag, file.id), keys)

    async def _make(self, tag: str, file: str) -> str:
        """Make the batch; after a call that failed, first look whether it was made all the same."""
        first = True

        async def make() -> Batch:
            nonlocal first
            made = None if first else await self._find(tag)
            first = False
            return made or await self._client.batches.create(
                input_file_id=file,
                endpoint=_PATH,
                completion_window=_WINDOW,
                metadata={_TAG: tag},
            )

        batch = await self._patiently(make)
        await self._ledger.do(lambda rows: rows.name_batch(tag, batch.id))
        return batch.id

    async def _find(self, tag: str) -> Batch | None:
        async for batch in self._client.batches.list(limit=100):
            if batch.metadata and batch.metadata.get(_TAG) == tag:
                return batch
        return None

    async def _resume(self, tag: str, batch_id: str | None, keys: list[str]) -> None:
        """Look after a batch of an earlier run, which may have ended before it was made."""
        if batch_id is None:
            made = await self._patiently(lambda: self._find(tag))
            if made is None:
                await self._ledger.do(lambda rows: rows.end_batch(tag))
                self._ask_again(keys, "batch never made")
                return
            batch_id = made.id
        await self._follow(tag, batch_id, keys)

    async def _follow(self, tag: str, batch_id: str, keys: list[str]) -> None:
        """Wait for a batch to end and hand out what it answered; ask the rest again."""
        while True:
            batch = await self._patiently(lambda: self._client.batches.retrieve(batch_id))
            if batch.status in _ENDED:
                break
            await asyncio.sleep(self._endpoint.poll)
        open_ = set(keys)
        refused: list[str] = []
        for file in (batch.output_file_id, batch.error_file_id):
            if file:
                await self._collect(file, open_, refused)
        await self._ledger.do(lambda rows: rows.end_batch(tag))
        if batch.status == "failed" and len(open_) == len(keys):
            why = without_key(_errors(batch), self._client.api_key)
            raise LaternaError(f"{self.identity.base_url}: batch {batch_id}: {why}")
        self._at_endpoint.difference_update(keys)
        self._refuse(refused, "no answer: refused in a batch", batch_id)
        self._ask_again([key for key in keys if key in open_], f"batch {batch.status}")

    async def _collect(self, file: str, open_: set[str], refused: list[str]) -> None:
        """Hand out the answers of one file; strike their keys, and those refused, from `open_`.

        A row that is broken, or failed by what may pass, stays open.
        """
        content = await self._patiently(lambda: self._client.files.content(file))
        answers = []
        for line in content.content.splitlines():
            try:
                row = msgspec.json.decode(line, type=_Row)
                if row.custom_id not in open_ or row.response is None:
                    continue
                status = row.response.status_code
                reply = read_completion(row.response.body) if status == 200 else None
            except msgspec.MsgspecError:
                continue
            if reply is not None:
                open_.discard(row.custom_id)
                answers.append(self._hand_out(row.custom_id, reply))
            elif 400 <= status < 500 and not may_pass(status):
                open_.discard(row.custom_id)
                refused.append(row.custom_id)
        await asyncio.gather(*answers)

    async def _hand_out(self, key: str, reply: Reply) -> None:
        future = self._waiting.get(key)
        if future is None:
            # Paid for by an earlier run, and not asked for (yet) by this one.
            await self._ledger.record(key, reply, 0.0)
        elif not future.done():
            future.set_result(reply)

    def _ask_again(self, keys: list[str], reason: str) -> None:
        for key in keys:
            self._at_endpoint.discard(key)
            self._tried[key] += 1
            self.retries[reason] += 1
            if self._tried[key] >= self._endpoint.tries:
                self._refuse([key], f"no answer: {reason}", key)
            elif key in self._waiting:
                self._enqueue(key)

    def _refuse(self, keys: Sequence[str], reason: str, detail: str) -> None:
        for key in keys:
            future = self._waiting.get(key)
            if future is not None and not future.done():
                future.set_exception(NoAnswer(reason, detail))

    async def _patiently(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """Return what a call returns; try again what may pass, raise LaternaError at the rest."""
        import openai

        for number in range(self._endpoint.tries):
            wish = 0.0
            try:
                return await call()
            except openai.APIStatusError as error:
                failure: openai.APIError = error
                if not may_pass(error.status_code):
                    break
                wish = retry_after(error)
            except openai.APIConnectionError as error:
                failure = error
            if number + 1 < self._endpoint.tries:
                await asyncio.sleep(max(backoff(number), wish))
        said = without_key(failure.message, self._client.api_key)
        raise LaternaError(f"{self.identity.base_url}: {said}") from failure


def _errors(batch: Batch) -> str:
    found = batch.errors.data if batch.errors and batch.errors.data else []
    return "; ".join(error.message or error.code or "" for error in found[:3]) or "it failed"
