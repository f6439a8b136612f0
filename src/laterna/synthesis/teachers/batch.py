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
from typing import Any, Final, TypeVar

import msgspec

from laterna.errors import LaternaError
from laterna.records import Message, Reply, Usage
from laterna.synthesis.budget import Budget
from laterna.synthesis.ledger import Ledger
from laterna.synthesis.settings import Endpoint
from laterna.synthesis.teachers.base import Failed, Failures, NoAnswer, request_key
from laterna.synthesis.teachers.client import Failure, may_pass, open_client, try_again
from laterna.synthesis.teachers.foreign import (
    NoReply,
    estimate_tokens,
    read_as,
    read_reply,
    read_rows,
    said_in,
    without_key,
)
from laterna.synthesis.teachers.openai import USUAL_REPLY, openai_identity, request_body

_PATH: Final = "/v1/chat/completions"
_WINDOW: Final = "24h"
_TAG = "laterna"
_QUIET_SECONDS = 0.5
"""A batch is sent once no request was added for so long: the ledger has claimed them all."""
_UNDER_WAY = frozenset(("validating", "in_progress", "finalizing", "cancelling"))
_ENDED = frozenset(("completed", "failed", "expired", "cancelled"))

_T = TypeVar("_T")


class _File(msgspec.Struct):
    id: str


class _Batch(msgspec.Struct):
    """What we read of a batch."""

    id: str
    status: str
    output_file_id: str | None = None
    error_file_id: str | None = None
    errors: Any = None
    metadata: Any = None


class _Batches(msgspec.Struct):
    data: list[_Batch]
    has_more: bool = False


class BatchTeacher:
    """Gathers requests into batches, sends them, looks after them and hands out the answers.

    `failures` counts rows that came back without an answer (expired, failed), and failed calls.
    """

    def __init__(self, endpoint: Endpoint, ledger: Ledger, budget: Budget) -> None:
        self.identity = openai_identity(endpoint)
        self.at_once = endpoint.batch_size
        self.failures = Failures()
        self._endpoint = endpoint
        self._ledger = ledger
        self._budget = budget
        self._client = open_client(endpoint)
        self._start: asyncio.Task[None] | None = None
        self._waiting: dict[str, asyncio.Future[Reply]] = {}
        self._messages: dict[str, Sequence[Message]] = {}
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
        self._messages[key] = messages
        if key not in self._at_endpoint:
            self._enqueue(key)
        try:
            return await future
        finally:
            for kept in (self._waiting, self._messages, self._to_send):
                kept.pop(key, None)

    async def close(self) -> None:
        """Stop looking after batches; those that are sent go on, and a later run collects them."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._client.close()

    async def _adopt(self) -> None:
        """Take over the batches of runs that ended before them, and begin to send our own."""
        found = await self._ledger.do(lambda rows: rows.open_batches(self.identity))
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
            keys = self._affordable(list(self._to_send)[: self._endpoint.batch_size])
            if not keys:
                await asyncio.sleep(self._endpoint.poll)
                continue
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

    def _affordable(self, keys: list[str]) -> list[str]:
        """Return those of the keys that the budget is good for, beside those at the endpoint."""
        before = [key for key in self._at_endpoint if key in self._messages]
        estimates = [self._guess(key) for key in (*before, *keys)]
        return keys[: max(0, self._budget.affordable(estimates) - len(before))]

    def _guess(self, key: str) -> Usage:
        messages = self._messages.get(key, ())
        written = min(round(USUAL_REPLY), self._endpoint.max_tokens or round(USUAL_REPLY))
        read = estimate_tokens(messages)
        return Usage(prompt_tokens=read, completion_tokens=written, estimated=1)

    async def _ask(self, keys: list[str]) -> None:
        try:
            self._budget.check()
        except NoAnswer as error:
            self._at_endpoint.difference_update(keys)
            self._refuse(keys, error.reason, error.detail)
            return
        tag = uuid.uuid4().hex
        await self._ledger.do(lambda rows: rows.plan_batch(tag, self.identity, keys))
        lines = [
            b'{"custom_id":"%b","method":"POST","url":"%b","body":%b}\n'
            % (key.encode(), _PATH.encode(), request_body(self.identity, self._messages[key]))
            for key in keys
            if key in self._messages
        ]
        name = f"laterna-{tag}.jsonl"
        content = b"".join(lines)
        files = self._client.files.with_raw_response
        file = await self._patiently(
            lambda: files.create(file=(name, content), purpose="batch"), _File
        )
        await self._follow(tag, await self._make(tag, file.id), keys)

    async def _make(self, tag: str, file: str) -> str:
        """Make the batch; after a call that failed, first look whether it was made all the same."""
        tried = False

        async def make() -> Any:
            nonlocal tried
            made = await self._find(tag) if tried else None
            if made is not None:
                raise _Made(made)
            tried = True
            return await self._client.batches.with_raw_response.create(
                input_file_id=file,
                endpoint=_PATH,
                completion_window=_WINDOW,
                metadata={_TAG: tag},
            )

        try:
            name = (await self._patiently(make, _Batch)).id
        except _Made as made:
            name = made.batch.id
        await self._ledger.do(lambda rows: rows.name_batch(tag, name))
        return name

    async def _find(self, tag: str) -> _Batch | None:
        from openai import omit

        after = ""
        while True:
            listed = self._client.batches.with_raw_response.list
            page = await self._patiently(lambda: listed(limit=100, after=after or omit), _Batches)  # noqa: B023
            for batch in page.data:
                if isinstance(batch.metadata, dict) and batch.metadata.get(_TAG) == tag:
                    return batch
            if not page.has_more or not page.data or after == page.data[-1].id:
                return None
            after = page.data[-1].id

    async def _resume(self, tag: str, batch_id: str | None, keys: list[str]) -> None:
        """Look after a batch of an earlier run, which may have ended before it was made."""
        if batch_id is None:
            made = await self._find(tag)
            if made is None:
                await self._ledger.do(lambda rows: rows.end_batch(tag))
                await self._ask_again(dict.fromkeys(keys, Failed(reason="batch never made")))
                return
            batch_id = made.id
        await self._follow(tag, batch_id, keys)

    async def _follow(self, tag: str, batch_id: str, keys: list[str]) -> None:
        """Wait for a batch to end and hand out what it answered; ask the rest again.

        What a cancelled batch leaves open is not asked again: whoever cancelled it meant it.
        """
        batches = self._client.batches.with_raw_response
        while True:
            batch = await self._patiently(lambda: batches.retrieve(batch_id), _Batch)
            if batch.status in _ENDED:
                break
            if batch.status not in _UNDER_WAY:
                raise LaternaError(f"{self._called(batch_id)}: unknown status {batch.status!r}")
            await asyncio.sleep(self._endpoint.poll)
        # A finished batch was billed, also for the rows that its files do not hold.
        billed = batch.status == "completed"
        open_ = {
            key: Failed(
                reason=f"batch {batch.status}", used=self._guess(key) if billed else Usage()
            )
            for key in keys
        }
        refused: dict[str, Failed] = {}
        for file in (batch.output_file_id, batch.error_file_id):
            if file:
                try:
                    await self._collect(file, open_, refused)
                except NoReply as error:
                    said = without_key(error.said, self._client.api_key) or "no text"
                    raise LaternaError(
                        f"{self._called(batch_id)}: its file {file} holds no answers ({said}); "
                        "run again to fetch it again; under another --ledger the requests are "
                        "asked, and paid, anew"
                    ) from error
        await self._ledger.do(lambda rows: rows.end_batch(tag))
        if batch.status == "failed" and len(open_) == len(keys):
            why = without_key(said_in(batch.errors), self._client.api_key) or "it failed"
            raise LaternaError(f"{self._called(batch_id)}: {why}")
        self._at_endpoint.difference_update(keys)
        await asyncio.gather(*map(self._failed, refused.values()))
        for key, failed in refused.items():
            self._refuse([key], f"no answer: {failed.reason}", failed.said or batch_id)
        if batch.status == "cancelled":
            self._refuse(list(open_), "not asked: the batch was cancelled", batch_id)
        else:
            await self._ask_again(open_)

    def _called(self, batch_id: str) -> str:
        return f"{self.identity.base_url}: batch {batch_id}"

    async def _collect(
        self, file: str, open_: dict[str, Failed], refused: dict[str, Failed]
    ) -> None:
        """Hand out the answers of one file; move the keys of those refused, with what was said.

        A row that is broken, or failed by what may pass, stays open. Raises NoReply for a file that
        holds no rows.
        """
        files = self._client.files
        content: bytes = await self._patiently(lambda: files.content(file), bytes)
        answers = []
        for row in read_rows(content):
            if row.key not in open_:
                continue
            said = without_key(row.said, self._client.api_key)
            if row.status == 200:
                guess = self._guess(row.key)
                try:
                    reply = read_reply(row.body, guess.prompt_tokens)
                except NoReply:
                    failed = Failed(reason="broken answer", said=said, used=guess, body=row.body)
                    open_[row.key] = failed
                    continue
                del open_[row.key]
                whole = msgspec.structs.replace(reply, body=row.body)
                answers.append(self._hand_out(row.key, whole))
            elif 400 <= row.status < 500 and not may_pass(row.status):
                refused[row.key] = Failed(reason="refused in a batch", said=said)
                del open_[row.key]
            elif row.status:
                open_[row.key] = Failed(reason=f"HTTP {row.status}", said=said)
            elif said:
                open_[row.key] = Failed(reason=open_[row.key].reason, said=said)
        await asyncio.gather(*answers)

    async def _hand_out(self, key: str, reply: Reply) -> None:
        future = self._waiting.get(key)
        if future is None:
            # Paid for by an earlier run, and not asked for (yet) by this one.
            await self._ledger.record(key, reply, 0.0)
        elif not future.done():
            future.set_result(reply)

    async def _ask_again(self, open_: dict[str, Failed]) -> None:
        await asyncio.gather(*map(self._failed, open_.values()))
        for key, failed in open_.items():
            self._at_endpoint.discard(key)
            self._tried[key] += 1
            if self._tried[key] >= self._endpoint.tries:
                self._refuse([key], f"no answer: {failed.reason}", failed.said)
            elif key in self._waiting:
                self._enqueue(key)

    async def _failed(self, failed: Failed) -> None:
        self.failures.add(failed.reason, failed.said)
        await self._budget.failed(self.identity, failed)

    def _refuse(self, keys: Sequence[str], reason: str, detail: str) -> None:
        for key in keys:
            future = self._waiting.get(key)
            if future is not None and not future.done():
                future.set_exception(NoAnswer(reason, detail))

    async def _patiently(self, call: Callable[[], Awaitable[Any]], kind: type[_T]) -> _T:
        """Return what a call returns; try again what may pass, raise LaternaError at the rest."""

        async def once() -> _T:
            try:
                return read_as(kind, (await call()).content)
            except Failure as error:
                failure = error
            except NoReply as error:
                said = without_key(error.said, self._client.api_key)
                failure = Failure("broken answer", said)
            await self._failed(Failed(reason=failure.reason, said=failure.said))
            raise failure

        try:
            return await try_again(once, self._endpoint.tries, self.identity.base_url)
        except Failure as failure:
            raise LaternaError(
                f"{self.identity.base_url}: the batch API gives no answer ({failure}); batches "
                "that are sent go on there: run again to collect them"
            ) from failure


class _Made(Exception):  # noqa: N818
    """The batch whose making failed was made all the same."""

    def __init__(self, batch: _Batch) -> None:
        self.batch = batch
