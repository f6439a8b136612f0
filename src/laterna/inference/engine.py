"""The engine: many questions at once, each answered as if it were alone.

`submit` takes a question and returns a `Request`, whose answer comes in events or whole. A thread
brings all of them on, step by step (`steps.py`), while there is something to do.
"""

from __future__ import annotations

import atexit
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

import msgspec
import torch
from PIL import Image

from laterna.data.masking import tokenize_prompt
from laterna.errors import LaternaError
from laterna.inference.batching.by_generate import ByGenerate
from laterna.inference.batching.cache import probe
from laterna.inference.batching.flat import is_flat
from laterna.inference.batching.onednn import packed
from laterna.inference.batching.pace import EngineSettings
from laterna.inference.batching.request import Completion, EngineStoppedError, Request
from laterna.inference.batching.steps import Slots, Steps
from laterna.inference.generation import Prompt
from laterna.inference.sampling import Decoding
from laterna.model.vlm import VisionLanguageModel
from laterna.records import IMAGE_TOKEN_INDEX, Record, Turn

Result = TypeVar("Result")
LINGER = 0.5
"""Seconds after which an idle engine's thread ends; the next question starts another."""


class QueueFullError(LaternaError):
    """As many requests wait as may: try again when some have been answered."""


class TooLongError(LaternaError):
    """A prompt and its longest answer are more than the model or the cache holds."""


class EngineStats(Record):
    """How the engine stands, and what it has done since it was made."""

    running: int
    waiting: int
    cache_bytes_used: int
    """Keys and values of the requests that are being answered, and of the images beside them."""
    cache_use: float
    """Those of the requests alone, as a share of their room, 0..1."""
    prompt_tokens: int
    cached_tokens: int
    """Those of `prompt_tokens` that were found in the cache."""
    generation_tokens: int
    image_queries: int
    image_hits: int
    finished: dict[str, int]
    """Requests by the reason for which they ended."""


class Engine:
    """Answers questions with a network, many at a time.

    Every answer is what it would be alone: greedy ones token for token in float32, drawn ones for
    the same seed. A language model whose cache cannot be driven row by row answers by its own
    `generate`, one request after another (an encoder-decoder: so many after so many); `one_by_one`
    then says why.
    """

    def __init__(self, model: VisionLanguageModel, settings: EngineSettings | None = None) -> None:
        self.model = model
        self.settings = settings or EngineSettings()
        for flat in (True, False):
            language = packed(model.language, self.settings.packed_bytes, flat=flat)
            self.one_by_one, token_bytes = probe(language)
            if not self.one_by_one or not is_flat(language):
                break
        self._steps: Steps = (
            ByGenerate(model, self.settings)
            if self.one_by_one
            else Slots(model, self.settings, token_bytes, flat=flat)
        )
        self._ends: tuple[object, frozenset[int]] = (None, frozenset())
        self._sample = _WeightSample(model)
        self._lock = self._steps.lock
        self._taken = 0
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._work: deque[tuple[Callable[[], Any], Future[Any]]] = deque()

    @property
    def ready(self) -> tuple[int, int]:
        """Return the rows, and the tokens of each, that were made ready in the cache."""
        return self._steps.ready

    @property
    def alive(self) -> bool:
        """Whether it takes questions: false once it has failed or was closed."""
        return self._error is None

    def submit(
        self,
        turns: Sequence[Turn],
        images: Sequence[Image.Image],
        decoding: Decoding,
        *,
        deadline: float | None = None,
        fit: bool = False,
        watched: bool = True,
        arrived: Callable[[Completion], object] | None = None,
    ) -> Request:
        """Take a question: turns, the last a user's, and the images of their `<image>` marks.

        It is given up after `deadline` seconds. With `fit` the answer may be as long as there is
        room for, at most `max_new_tokens`. With `watched` false nobody sees the answer grow.
        `arrived` is given the whole answer, in the engine's thread, before `result` returns it.
        Raises QueueFullError, TooLongError, LaternaError for what cannot be asked, and
        EngineStoppedError when the engine is no longer alive.
        """
        prompt = tokenize_prompt(turns, self.model.tokenizer, self.model.template)
        self._require_place()
        if prompt.count(IMAGE_TOKEN_INDEX) != len(images):
            raise LaternaError(
                f"{prompt.count(IMAGE_TOKEN_INDEX)} `<image>` marks but {len(images)} images; each "
                "mark needs one image"
            )
        counted = [self.model.image_tokens(*image.size) for image in images]
        decoding = self._fitted(len(prompt) - len(images) + sum(counted), decoding, fit=fit)
        self._forget_old_weights()
        request = Request(
            prompt,
            [self._steps.images.take(image) for image in images],
            decoding,
            tokenizer=self.model.tokenizer,
            ends=self._end_ids(),
            device=self.model.device,
            deadline=deadline,
            watched=watched,
            arrived=arrived,
        )
        with self._lock:
            self._require_place()
            request.number = self._taken = self._taken + 1
            self._steps.waiting.append(request)
            self._begin()
        return request

    def call(self, work: Callable[[], Result]) -> Result:
        """Run a piece of other work with the model between two steps, and return what it returns.

        So the model is in one thread's hands, and whoever is being answered waits for one piece
        at most. Raises what the work raises, and EngineStoppedError.
        """
        done: Future[Result] = Future()
        with self._lock:
            self._require_alive()
            self._work.append((work, done))
            self._begin()
        return done.result()

    def require_room(self, prompt: int, answer: int) -> None:
        """Raise TooLongError where a prompt and an answer of so many tokens are too long."""
        self._fitted(prompt, Decoding(max_new_tokens=answer), fit=False)

    def recall(self, prompt: Sequence[int], answer: str) -> list[int]:
        """Return the ids that it wrote lately for an answer to a prompt; empty: it did not."""
        return self._steps.answers.find(prompt, answer)

    def answers(
        self,
        prompts: Iterable[Prompt],
        decoding: Decoding,
        *,
        fit: bool = False,
        arrived: Callable[[int, Completion], object] | None = None,
    ) -> Iterator[Completion]:
        """Answer prompts in their order, many at once, as `submit` does.

        Few more are taken than are being answered, so any number may come. Whoever stops
        iterating cancels the others. `arrived` is given the number of a prompt with its answer
        as soon as that is whole, out of order and in the engine's thread: it must be quick.
        """
        ahead: deque[Request] = deque()
        most = min(2 * self.settings.rows, self.settings.queue)
        try:
            for number, (turns, images) in enumerate(prompts):
                if len(ahead) == most:
                    yield ahead.popleft().result()
                told = None if arrived is None else partial(arrived, number)
                ahead.append(self._patiently(turns, images, decoding, fit, told))
            while ahead:
                yield ahead.popleft().result()
        finally:
            for request in ahead:
                request.cancel()

    def stats(self) -> EngineStats:
        """Say how it stands."""
        steps, counts = self._steps, self._steps.counts
        limit = (steps.room or 0) * steps.token_bytes
        seen = [image.tokens_md for row in list(steps.rows) for image in row.images]
        tokens = sum(len(one) * one.element_size() for one in seen if one is not None)
        return EngineStats(
            running=len(steps.rows),
            waiting=len(steps.waiting),
            cache_bytes_used=steps.used_bytes + tokens * self.model.fusion.beside_numbers(),
            cache_use=steps.used_bytes / limit if limit else 0.0,
            prompt_tokens=counts["prompt_tokens"],
            cached_tokens=counts["cached_tokens"],
            generation_tokens=counts["generation_tokens"],
            image_queries=steps.images.asked,
            image_hits=steps.images.hits,
            finished={
                name.removeprefix("finished_"): count
                for name, count in counts.items()
                if name.startswith("finished_")
            },
        )

    def close(self) -> None:
        """Take no more questions, and fail those that are not answered yet."""
        with self._lock:
            thread = self._thread
            self._error = self._error or EngineStoppedError("it was closed")
            self._lock.notify_all()
        if thread is not None:
            thread.join()

    def _patiently(
        self,
        turns: Sequence[Turn],
        images: Sequence[Image.Image],
        decoding: Decoding,
        fit: bool,
        arrived: Callable[[Completion], object] | None,
    ) -> Request:
        """Submit as soon as there is a place: others may be using the queue too."""
        while True:
            try:
                return self.submit(turns, images, decoding, fit=fit, watched=False, arrived=arrived)
            except QueueFullError:
                with self._lock:
                    self._lock.wait(timeout=0.05)

    def _begin(self) -> None:
        """See that the thread knows of what there is to do; the lock is held."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
            self._thread.start()
            atexit.register(self.close)  # a thread within torch would abort the exit
        self._lock.notify_all()

    def _require_alive(self) -> None:
        if self._error is not None:
            raise EngineStoppedError(f"the engine has stopped: {self._error}") from self._error

    def _require_place(self) -> None:
        self._require_alive()
        waiting = len(self._steps.waiting)
        if waiting >= self.settings.queue:
            raise QueueFullError(
                f"{waiting} requests wait, which is all that may, and {len(self._steps.rows)} are "
                "being answered; try again later"
            )

    def _fitted(self, prompt: int, decoding: Decoding, *, fit: bool) -> Decoding:
        """Return a decoding whose longest answer fits. Raises TooLongError."""
        limits = [
            (self._steps.positions, "the model has {:,} positions"),
            (self._steps.room, "the cache has room for {:,} tokens (cache_bytes)"),
        ]
        known = [(limit, name) for limit, name in limits if limit is not None]
        limit, name = min(known, default=(prompt + decoding.max_new_tokens, ""))
        if prompt + decoding.max_new_tokens <= limit:
            return decoding
        if fit and prompt < limit:
            return msgspec.structs.replace(decoding, max_new_tokens=limit - prompt)
        raise TooLongError(
            f"the prompt has {prompt:,} tokens and its answer may have "
            f"{decoding.max_new_tokens:,}, but {name.format(limit)}; shorten the chat, or ask for "
            "a shorter answer"
        )

    def _end_ids(self) -> frozenset[int]:
        """Return the ids that end an answer; the template is rendered only when it is new."""
        named = self.model.language.generation_config.eos_token_id
        key = (self.model.template, str(named))
        if self._ends[0] != key:
            self._ends = key, frozenset(self.model.end_of_turn())
        return self._ends[1]

    def _forget_old_weights(self) -> None:
        """Forget what was computed with other weights, if they changed while nothing was asked."""
        steps = self._steps
        with self._lock:
            while not steps.idle:
                if steps.waiting or any(row.finish is None for row in steps.rows):
                    return
                self._lock.wait(timeout=0.01)  # the last one's step is ending
            if self._sample.changed():
                steps.forget()

    def _run(self) -> None:
        """Step while there is something to do; runs in the engine's thread."""
        try:
            while self._busy():
                self._steps.step()
                self._do_work()
        except BaseException as error:
            self._stop(error)
            raise  # to standard error, by threading's own hook

    def _busy(self) -> bool:
        """Say whether to go on, after waiting a moment for something to do."""
        with self._lock:
            if self._idle and self.alive:
                self._lock.notify_all()
                self._lock.wait(timeout=LINGER)
            if self._error is None and not self._idle:
                return True
            if self._error is not None:
                self._fail_all(self._error)
            self._ended()
            return False

    @property
    def _idle(self) -> bool:
        return self._steps.idle and not self._work

    def _do_work(self) -> None:
        """Do one piece of other work; what it raises is for whoever waits for it."""
        with self._lock:
            if not self._work:
                return
            work, done = self._work.popleft()
        try:
            done.set_result(work())
        except BaseException as error:  # noqa: BLE001
            done.set_exception(error)

    def _stop(self, error: BaseException) -> None:
        with self._lock:
            self._error = self._error or error
            self._fail_all(self._error)
            self._ended()

    def _ended(self) -> None:
        self._thread = None
        atexit.unregister(self.close)

    def _fail_all(self, error: BaseException) -> None:
        for request in [*self._steps.rows, *self._steps.waiting]:
            if request.finish is None:
                request.fail(error)
        for _, done in self._work:
            stopped = EngineStoppedError(f"the engine has stopped: {error}")
            stopped.__cause__ = error
            done.set_exception(stopped)
        self._work.clear()
        self._steps.rows.clear()
        self._steps.waiting.clear()


class _WeightSample:
    """A number of each of a network's weights, by which it is seen that they were changed."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._places: list[tuple[int, torch.dtype]] = []
        self._drawn: list[torch.Tensor] = []
        self._before: list[float] = []
        self.changed()

    def changed(self) -> bool:
        """Say whether they were since it was asked last."""
        parameters = list(self._model.parameters())
        places = [(one.data_ptr(), one.dtype) for one in parameters]
        moved = places != self._places
        if moved:  # views, which see what is written to the weights: drawing them anew takes longer
            drawn = [one.detach()[tuple(size // 2 for size in one.shape)] for one in parameters]
            self._places, self._drawn = places, drawn
        now = torch.stack([one.float() for one in self._drawn]).tolist()
        before, self._before = self._before, now
        return moved or now != before
