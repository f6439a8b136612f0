"""The engine's steps: who joins, who leaves, and one forward for all that are being answered.

Shapes: r rows · t tokens of a row · d width.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Sequence

import numpy as np
import torch

from laterna.inference.cache import PrefixStore, SlotCache, common, rounded
from laterna.inference.generation import generate_rows
from laterna.inference.images import ImageStore
from laterna.inference.request import Finish, Request
from laterna.inference.sampling import choose
from laterna.model.vlm import VisionLanguageModel
from laterna.records import Record

WORTH_WAITING = 32
"""Positions of a prompt that another is computing, for which a request waits rather than computes
them too."""
SMALLEST_PIECE = 8
"""Fewest tokens of a prompt that are taken in a step."""


class EngineSettings(Record):
    """What the engine may take. Bytes are of the model's own numbers on its own device."""

    rows: int = 32
    """Requests that are answered at once."""
    queue: int = 256
    """Requests that may wait."""
    cache_bytes: int | None = None
    """Keys and values of those that are answered; None: half of a GPU's free memory, 2 GiB else."""
    pack_length: int = 0
    """Positions that are made ready in all rows, or as many as fit, before the first question. 0:
    as they are needed; a prompt that is longer than any before then stops everyone for a moment."""
    prefix_bytes: int = 512 * 2**20
    """Keys and values that are kept of those that were answered."""
    image_bytes: int = 256 * 2**20
    """Tokens of images that are kept."""
    chunk: int = 512
    """Tokens of prompts that are taken in a step at most."""
    stall: float = 1.0
    """Time that prompts may take in a step while somebody watches an answer being written, in
    steps of that writing."""
    stall_seconds: float = 0.02
    """The same in seconds, where that is more: nobody sees so short a pause."""
    crowd_seconds: float = 0.25
    """The same while more wait for a first token than are being answered."""
    image_batch: int = 16
    """Images, or tiles of them, that are encoded at once."""


class Steps:
    """What both ways to answer share: who waits, and what has been counted."""

    def __init__(self, model: VisionLanguageModel, settings: EngineSettings) -> None:
        self.model, self.settings = model, settings
        self.images = ImageStore(model, settings.image_bytes)
        self.lock = threading.Condition()
        """Held by whoever touches `waiting`."""
        self.waiting: deque[Request] = deque()
        self.rows: list[Request] = []
        """Those that are being answered, by their rows of the cache."""
        self.room: int | None = None
        """Positions that the cache holds; None: any number."""
        self.token_bytes = self.used_bytes = 0
        self.counts: Counter[str] = Counter()

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self.rows and not self.waiting

    def step(self) -> None:
        """Bring all that are being answered on by a token, or a prompt by a piece."""
        raise NotImplementedError

    def forget(self) -> None:
        """Forget all that hangs on the weights. Only while idle."""
        self.images.clear()

    def _dismiss(self) -> None:
        """End those that wait and will not be answered any more."""
        with self.lock:
            gone = [(one, why) for one in self.waiting if (why := one.overdue())]
            for request, _ in gone:
                self.waiting.remove(request)
        for request, why in gone:
            self._count(request, why)
            request.end(why)

    def _admitted(self, request: Request, cached: int) -> None:
        with self.lock:
            self.waiting.remove(request)
        request.admitted = time.monotonic()
        request.cached = request.written = cached
        self.counts["prompt_tokens"] += len(request.ids)
        self.counts["cached_tokens"] += cached
        self.rows.append(request)

    def _count(self, request: Request, finish: Finish | None) -> None:
        self.counts[f"finished_{finish}"] += 1
        self.counts["generation_tokens"] += len(request.tokens)


class OneByOne(Steps):
    """Answers by the model's own `generate`, one request after another."""

    @torch.no_grad()
    def step(self) -> None:
        """Answer the request that has waited longest."""
        self._dismiss()
        if not self.waiting:
            return
        request = self.waiting[0]
        self._admitted(request, 0)
        self.images.encode(request.images, self.settings.image_batch)
        model = self.model
        seen = [image.tokens_md for image in request.images if image.tokens_md is not None]
        inputs = model.fusion.generation_inputs(model.language, [request.prompt], seen)

        def chosen(logits_rv: torch.Tensor) -> list[int]:
            (token,) = choose(logits_rv, [request.sampler])
            request.take(token)
            return [token.id]

        def ended() -> bool:
            self._dismiss()
            why = request.overdue()
            if why and request.finish is None:
                request.end(why)
            return request.finish is not None

        generate_rows(model, inputs, request.decoding.max_new_tokens, chosen, ended)
        self.rows.clear()
        if request.finish is None:  # the model's own settings ended it
            request.end("stop")
        self._count(request, request.finish)


class Slots(Steps):
    """Answers all at once, in rows of one key-value cache.

    The first `writing` rows are written to; in those behind them prompts are still being taken.
    """

    def __init__(
        self, model: VisionLanguageModel, settings: EngineSettings, token_bytes: int
    ) -> None:
        super().__init__(model, settings)
        self.writing = 0
        self.room = _cache_bytes(settings, model.device) // max(token_bytes, 1)
        self.token_bytes = token_bytes
        self._prefixes = PrefixStore(settings.prefix_bytes)
        self._seconds = 0.0  # of a step that writes
        self._taken = (SMALLEST_PIECE, 0.02)  # tokens of prompts in the last step, and its seconds
        self.forget()

    def forget(self) -> None:
        """Forget all that hangs on the weights, and give the cache's memory back."""
        super().forget()
        self._prefixes.clear()
        language = self.model.language
        self._cache = SlotCache(language.config.get_text_config().num_hidden_layers)
        room, length = self.room or 0, rounded(self.settings.pack_length)
        if length and length <= room:
            self._cache.reserve(min(self.settings.rows, room // length), length, room)
            embedding = language.get_input_embeddings().weight[:1].detach()
            with torch.no_grad():
                self._cache.forward(language, embedding[None], [0], [0], [1])

    @torch.no_grad()
    def step(self) -> None:
        """Bring all that are being answered on by a token, and prompts by a piece.

        A piece is as large as time allows while somebody watches an answer being written. Where
        nobody does, prompts go first, so that more rows are written to at once.
        """
        self._dismiss()
        for place in reversed(range(len(self.rows))):
            why = self.rows[place].overdue()
            if why:
                self.rows[place].end(why)
                self._remove(place)
        self._admit()
        watched = any(row.watched for row in self.rows[: self.writing])
        if self.writing and (watched or self.writing == len(self.rows)):
            begun = time.monotonic()
            self._write()
            spent = time.monotonic() - begun
            self._seconds = spent if not self._seconds else 0.8 * self._seconds + 0.2 * spent
        if self.writing < len(self.rows):
            self._take_prompts(watched)
        self.used_bytes = sum(row.written for row in self.rows) * self.token_bytes

    def _admit(self) -> None:
        """Give rows to those that wait, in order, while there is room."""
        with self.lock:
            waiting = list(self.waiting)
        prompts = self.rows[self.writing :]
        for request in waiting:
            longest = rounded(max([request.need, *(row.need for row in self.rows)]))
            longest = min(longest, self.room or longest)
            count = len(self.rows) + 1
            if count > self.settings.rows or count * longest > (self.room or 0):
                return
            if request.behind in prompts:
                continue
            request.behind = self._promising(request)
            if request.behind is not None:
                continue
            used = max((row.written for row in self.rows), default=0)
            self._cache.reserve(count, longest, self.room or 0, used)
            self._admitted(request, self._find_prefix(request, count - 1))
            prompts.append(request)

    def _find_prefix(self, request: Request, place: int) -> int:
        """Copy what the cache or the store knows of a prompt to its row; return how much."""
        best, source = 0, -1
        for row, other in enumerate(self.rows):
            shared = common(request.ids[:-1], other.ids[: other.written], best)
            if shared:
                best, source = shared, row
        stored, states = self._prefixes.longest(request.ids[:-1], best)
        if stored:
            self._cache.write(place, states, stored)
        elif best:
            self._cache.copy(source, place, best)
        return stored or best

    def _promising(self, request: Request) -> Request | None:
        """Return one whose prompt will soon be known that much further that waiting pays."""
        if self.writing == len(self.rows):
            return None
        known = max(common(request.ids, row.ids[: row.written]) for row in self.rows)
        known = max(known, self._prefixes.longest(request.ids, known)[0])
        for row in self.rows[self.writing :]:
            if common(request.ids, row.ids, known + WORTH_WAITING):
                return row
        return None

    def _write(self) -> None:
        """Write one token to every row that is written to."""
        rows = self.rows[: self.writing]
        language = self.model.language
        ids_rt = torch.tensor([[row.tokens[-1].id] for row in rows]).to(self.model.device)
        logits_rv = self._forward(
            rows, language.get_input_embeddings()(ids_rt), range(len(rows)), [1] * len(rows)
        )
        tokens = choose(logits_rv, [row.sampler for row in rows])
        ended = []
        for place, (row, token) in enumerate(zip(rows, tokens, strict=True)):
            row.written += 1
            if not row.take(token):
                ended.append(place)
        for place in reversed(ended):
            self._remove(place)

    def _forward(
        self,
        rows: Sequence[Request],
        embeds_rtd: torch.Tensor,
        places: Sequence[int],
        new: Sequence[int],
    ) -> torch.Tensor:
        """Run new tokens of rows, which stand in those places; return the logits (r, v)."""
        written = [row.written for row in rows]
        fusion = self.model.fusion
        with fusion.beside(fusion.together([row.media for row in rows], written, new)):
            return self._cache.forward(self.model.language, embeds_rtd, places, written, new)

    def _take_prompts(self, watched: bool) -> None:
        """Take a piece of the prompts that came first; those taken whole get their first token."""
        budget = self._affordable() if watched else self.settings.chunk
        rows, new = self._next_prompts(budget)
        embeds = [
            row.embeds_td[row.written : row.written + count]
            for row, count in zip(rows, new, strict=True)
            if row.embeds_td is not None
        ]
        begun = time.monotonic()
        embeds_rtd = torch.nn.utils.rnn.pad_sequence(embeds, batch_first=True, padding_side="left")
        places = [self.rows.index(row) for row in rows]
        logits_rv = self._forward(rows, embeds_rtd, places, new)
        for row, count in zip(rows, new, strict=True):
            row.written += count
        whole = [place for place, row in enumerate(rows) if not row.left]
        float(logits_rv[0, 0])  # a GPU has really done it now
        self._taken = embeds_rtd.shape[0] * embeds_rtd.shape[1], time.monotonic() - begun
        if not whole:
            return
        tokens = choose(logits_rv[whole], [rows[place].sampler for place in whole])
        for place, token in zip(whole, tokens, strict=True):
            rows[place].embeds_td = None
            self._promote(rows[place])
            if not rows[place].take(token):
                self._remove(self.writing - 1)

    def _next_prompts(self, budget: int) -> tuple[list[Request], list[int]]:
        """Return whose prompts are next, first come first served, embedded; and tokens of each."""
        line = sorted(self.rows[self.writing :], key=lambda row: row.number)
        rows, widest = [line[0]], min(line[0].left, budget)
        for row in line[1:]:
            wide = max(widest, row.left)
            if wide * (len(rows) + 1) > budget:
                break
            rows.append(row)
            widest = wide
        new = [row for row in rows if row.embeds_td is None]
        self.images.encode(
            (image for row in new for image in row.images), self.settings.image_batch
        )
        for row in new:
            seen = [image.tokens_md for image in row.images if image.tokens_md is not None]
            inputs = self.model.fusion.generation_inputs(self.model.language, [row.prompt], seen)
            row.embeds_td, row.media = inputs["inputs_embeds"][0], inputs.get("media")
        return rows, [min(row.left, budget) for row in rows]

    def _affordable(self) -> int:
        """Return how many tokens of prompts are taken in the time that they may take.

        It is judged by the last step: more tokens take less time each, and of fewer a part of the
        time stays, about that of a step that writes. So what is allowed is hardly overstepped.
        """
        limits = self.settings
        wait = len(self.rows) - self.writing + len(self.waiting)
        least = limits.crowd_seconds if wait > self.writing else limits.stall_seconds
        allowed = max(limits.stall * self._seconds, least)
        tokens, seconds = self._taken
        stays = min(self._seconds, allowed / 2) if seconds > allowed else 0.0
        piece = int(tokens * (allowed - stays) / max(seconds - stays, 1e-6))
        return min(max(piece, SMALLEST_PIECE), self.settings.chunk)

    def _promote(self, row: Request) -> None:
        """Move a row whose prompt is taken to the end of those that are written to."""
        place, target = self.rows.index(row), self.writing
        if place != target:
            other = self.rows[target]
            self._cache.swap(place, target, max(row.written, other.written))
            self.rows[place], self.rows[target] = other, row
        self.writing += 1

    def _remove(self, place: int) -> None:
        """Take a finished row out, keep what it holds, and close the gap."""
        gone = self.rows[place]
        self._count(gone, gone.finish)
        said = np.array([token.id for token in gone.tokens], dtype=np.int64)
        known = np.concatenate([gone.ids, said])[: gone.written]
        if len(known):
            self._prefixes.keep(known, self._cache.read(place, gone.written))
        holes = [place]
        if place < self.writing:
            self.writing -= 1
            holes = [place, self.writing]
        for hole, source in zip(holes, [*holes[1:], len(self.rows) - 1], strict=True):
            if hole != source:
                self._cache.copy(source, hole, self.rows[source].written)
                self.rows[hole] = self.rows[source]
        self.rows.pop()


def _cache_bytes(settings: EngineSettings, device: torch.device) -> int:
    if settings.cache_bytes is not None:
        return settings.cache_bytes
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free) // 2
    return 2 * 2**30
