"""One question on its way through the engine, and the ways to wait for its answer."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from laterna.inference.batching.kept import Ids, SeenImage
from laterna.inference.sampling import AnswerText, Decoding, Sampler, Token, decode
from laterna.records import IMAGE_TOKEN_INDEX

Finish = Literal["stop", "length", "cancelled", "deadline"]
"""Why an answer ended: by itself or a stop text, by its longest length, or before its time."""


class EngineStoppedError(RuntimeError):
    """The engine failed or was closed before the answer was complete."""


class Event(NamedTuple):
    """What is new of an answer."""

    text: str
    """More of it, whole characters; may be empty."""
    tokens: Sequence[Token]
    """Those that the text is of; the one that ends the answer is of none."""
    finish: Finish | None = None
    """Set in the last event."""


class Completion(NamedTuple):
    """A whole answer."""

    text: str
    tokens: tuple[Token, ...]
    """All that were written; the end of turn is one, and so are those of a stop text."""
    finish: Finish
    prompt_tokens: int
    cached_tokens: int
    """Those of the prompt that an earlier request had left in the cache."""


class Request:
    """A question that the engine has taken; iterate over it (`for` or `async for`) for `Event`s.

    Whoever stops iterating cancels it. With `watched` false no events are made, and `result` is
    the one way to wait for the answer; it may then wait a little for the good of others.
    `arrived` is given a whole answer before anyone who waits is; what it raises, `result` raises.
    Times are in seconds of `time.monotonic`, None where it has not come to that.
    """

    def __init__(
        self,
        prompt: Sequence[int],
        images: Sequence[SeenImage],
        decoding: Decoding,
        *,
        tokenizer: Any,
        ends: frozenset[int],
        device: torch.device,
        deadline: float | None,
        watched: bool,
        arrived: Callable[[Completion], object] | None = None,
    ) -> None:
        self.number = 0
        """Place in the order of arrival."""
        self.prompt, self.images, self.decoding, self.watched = prompt, images, decoding, watched
        self.ids = _expanded(prompt, images)
        self.sampler = Sampler(decoding, device)
        self.arrived = time.monotonic()
        self.until = None if deadline is None else self.arrived + deadline
        self.admitted: float | None = None
        self.answering: float | None = None
        self.ended: float | None = None
        self.written = 0
        """Positions whose keys and values stand in the cache."""
        self.cached = 0
        self.embeds_td: Tensor | None = None
        self.media: Any = None
        """What the fusion has the language model look at beside the row."""
        self.behind: Request | None = None
        """One that is computing what this begins with, and is waited for."""
        self.tokens: list[Token] = []
        self.finish: Finish | None = None
        self.cancelled = False
        self._ends, self._tokenizer = ends, tokenizer
        self._text = AnswerText(tokenizer, decoding.stop) if decoding.stop else None
        self._error: BaseException | None = None
        self._arrived = arrived
        self._fault: Exception | None = None
        """What `arrived` raised: no fault of the engine's, which goes on."""
        self._completion: Completion | None = None
        self._news: queue.SimpleQueue[Token | None] = queue.SimpleQueue()
        """Tokens, and None at the end. Whoever reads them turns them into text, not the engine."""
        self._done = threading.Event()
        self._wake: Callable[[], object] | None = None

    @property
    def need(self) -> int:
        """Positions that it takes at most."""
        return len(self.ids) + self.decoding.max_new_tokens

    @property
    def left(self) -> int:
        """Positions of the prompt that are not yet written."""
        return len(self.ids) - self.written

    def cancel(self) -> None:
        """End it before the engine's next step; what was written so far stays."""
        self.cancelled = True

    def overdue(self) -> Finish | None:
        """Return why it is to end before its time, if it is."""
        if self.cancelled:
            return "cancelled"
        return "deadline" if self.until is not None and time.monotonic() >= self.until else None

    def take(self, token: Token) -> bool:
        """Add a token to the answer; return whether it goes on."""
        self.answering = self.answering or time.monotonic()
        self.tokens.append(token)
        stopped = False
        if token.id in self._ends:
            stopped = True
        elif self._text is not None:
            self._text.push(token)
            stopped = self._text.stopped
        if self.watched:
            self._tell(token)
        if stopped or len(self.tokens) == self.decoding.max_new_tokens:
            self.end("stop" if stopped else "length")
        return self.finish is None

    def end(self, finish: Finish) -> None:
        """Finish it."""
        self.ended = time.monotonic()
        self.embeds_td, self.media, self.images = None, None, ()
        self.finish = finish
        if self._arrived is not None and finish in ("stop", "length"):
            try:
                self._arrived(self._complete(finish))
            except Exception as fault:  # noqa: BLE001
                self._fault = fault
        self._done.set()
        self._tell(None)

    def fail(self, error: BaseException) -> None:
        """End it without an answer: every way to wait raises from `error`."""
        self._error = error
        self._done.set()
        self._tell(None)

    def result(self) -> Completion:
        """Wait for the whole answer. Raises EngineStoppedError when it will never be complete.

        Whoever is interrupted while waiting has cancelled it.
        """
        try:
            self._done.wait()
        except BaseException:
            self.cancel()
            raise
        if self._error is not None or self.finish is None:
            raise self._stopped()
        if self._fault is not None:
            raise self._fault
        return self._complete(self.finish)

    def _complete(self, finish: Finish) -> Completion:
        if self._completion is None:
            if self._text is not None:
                self._text.end()
                text = self._text.text
            else:
                text = decode(self._tokenizer, [token.id for token in self.tokens])
            self._completion = Completion(
                text=text,
                tokens=tuple(self.tokens),
                finish=finish,
                prompt_tokens=len(self.ids),
                cached_tokens=self.cached,
            )
        return self._completion

    def __iter__(self) -> Iterator[Event]:
        """Yield what is new of the answer, as it comes. Raises EngineStoppedError."""
        try:
            text = AnswerText(self._tokenizer, self.decoding.stop)
            while (token := self._news.get()) is not None:
                if event := self._event(text, token):
                    yield event
            yield self._last_event(text)
        finally:
            self.cancel()

    async def __aiter__(self) -> AsyncIterator[Event]:
        """Yield as `for` does, without a thread that waits."""
        text = AnswerText(self._tokenizer, self.decoding.stop)
        filled = asyncio.Event()
        self._wake = partial(asyncio.get_running_loop().call_soon_threadsafe, filled.set)
        try:
            while True:
                filled.clear()
                while not self._news.empty():
                    token = self._news.get_nowait()
                    if token is None:
                        yield self._last_event(text)
                        return
                    if event := self._event(text, token):
                        yield event
                await filled.wait()
        finally:
            self._wake = None
            self.cancel()

    def _event(self, text: AnswerText, token: Token) -> Event | None:
        """Return what a token makes visible; None if it only ends the answer."""
        if token.id in self._ends:
            return None
        return Event(*text.push(token))

    def _last_event(self, text: AnswerText) -> Event:
        if self._error is not None or self.finish is None:
            raise self._stopped()
        rest, tokens = ("", []) if text.stopped else text.end()
        return Event(rest, tokens, self.finish)

    def _tell(self, token: Token | None) -> None:
        self._news.put(token)
        wake = self._wake
        if wake is None:
            return
        try:
            wake()
        except RuntimeError:  # the loop has been closed: nobody will ever read on
            self.cancel()

    def _stopped(self) -> EngineStoppedError:
        why = f"{type(self._error).__name__}: {self._error}"
        stopped = EngineStoppedError(f"the engine stopped before the answer was complete ({why})")
        stopped.__cause__ = self._error
        return stopped


def _expanded(prompt: Sequence[int], images: Sequence[SeenImage]) -> Ids:
    """Return what stands in each position: an image's number in each that it takes."""
    left = iter(images)
    expanded: list[int] = []
    for token in prompt:
        if token == IMAGE_TOKEN_INDEX:
            image = next(left)
            expanded += [image.number] * image.positions
        else:
            expanded.append(token)
    return np.array(expanded, dtype=np.int64)
