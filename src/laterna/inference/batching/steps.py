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

from laterna.inference.batching.cache import STEP, SlotCache, rounded, usual_bytes, wide
from laterna.inference.batching.flat import is_flat
from laterna.inference.batching.kept import ImageStore, PrefixStore, common
from laterna.inference.batching.onednn import packed
from laterna.inference.batching.pace import EngineSettings, Pace, end_to_end, side_by_side
from laterna.inference.batching.request import Finish, Request
from laterna.inference.sampling import AnswerStore, choose
from laterna.model.language.causal import positions_of
from laterna.model.vlm import VisionLanguageModel

WORTH_WAITING = 32
"""Positions of a prompt that another is computing, for which a request waits rather than computes
them too."""
WHOLE = 1024
"""Positions of a row that hold most questions about an image, and their answers."""


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
        self.positions = positions_of(model.language.config)
        """Those that the model knows; None: it does not say."""
        self.ready = (0, 0)
        """Rows, and positions in each, that were made ready before the first question."""
        self.token_bytes = self.used_bytes = 0
        self.counts: Counter[str] = Counter()
        self.answers = AnswerStore(model.tokenizer)

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
        self.answers.keep(request.prompt, [token.id for token in request.tokens])


class Slots(Steps):
    """Answers all at once, in rows of one key-value cache.

    The first `writing` rows are written to; in those behind them prompts are still being taken.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        settings: EngineSettings,
        token_bytes: int,
        *,
        flat: bool = True,
    ) -> None:
        """Set up for a model, a token of whose cache takes so many bytes; `flat`: as `packed`."""
        super().__init__(model, settings)
        self.writing = 0
        self._wants_flat = flat
        given = settings.cache_bytes
        size = usual_bytes(model.device) if given is None else given
        self.room = size // max(token_bytes, 1)
        self.token_bytes = token_bytes
        self._prefixes = PrefixStore(settings.prefix_bytes)
        # On a CPU, what other programs take of it says nothing about how long a piece may be.
        self._clock = time.thread_time if model.device.type == "cpu" else time.monotonic
        self._pace = Pace(settings)
        self.forget()

    def forget(self) -> None:
        """Forget all that hangs on the weights, and give the cache's memory back."""
        super().forget()
        self._prefixes.clear()
        language = self.model.language
        if not self.model.fusion.beside_row:  # else its blocks would look at another network
            language = packed(language, self.settings.packed_bytes, flat=self._wants_flat)
        self._language = language
        self._flat = self._pace.flat = is_flat(language)
        self._cache = SlotCache(language.config.get_text_config().num_hidden_layers)
        room, length = self.room or 0, self._row_length()
        if length:
            self._cache.reserve(min(self.settings.rows, room // length), length, room)
            self.ready = self._cache.rows, self._cache.length
            embedding = language.get_input_embeddings().weight[:1].detach()
            with torch.no_grad():
                self._cache.forward(language, embedding, [0], [0], [1])

    def _row_length(self) -> int:
        """Return the columns that are made ready in each row; 0: none."""
        room, wanted = self.room or 0, self.settings.row_tokens
        if wanted is None:
            share = min(max(room // self.settings.rows, WHOLE), room)
            wanted = min(share, self.positions or share)
            return min(rounded(wanted), share // STEP * STEP)
        return rounded(wanted) if rounded(wanted) <= room else 0

    @torch.no_grad()
    def step(self) -> None:
        """Bring all that are being answered on by a token, and prompts by a piece.

        A piece is as large as time allows while somebody watches an answer being written. Both are
        one forward where the network's attention can. Where it cannot and nobody watches, prompts
        go first, so that more rows are written to at once.
        """
        self._dismiss()
        for place in reversed(range(len(self.rows))):
            why = self.rows[place].overdue()
            if why:
                self.rows[place].end(why)
                self._remove(place)
        self._admit()
        writers = self.rows[: self.writing]
        watched = any(row.watched for row in writers)
        if self.writing == len(self.rows) or (watched and self._pace.stale(self.writing)):
            self._advance(writers, [1] * self.writing)
        elif self._flat:
            prompts, new = self._next_prompts(watched)
            self._advance([*writers, *prompts], [1] * len(writers) + new)
        else:
            if watched:
                self._advance(writers, [1] * self.writing)
            self._advance(*self._next_prompts(watched))
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

    def _advance(self, rows: Sequence[Request], new: Sequence[int]) -> None:
        """Run the next tokens of rows, so many of each, and give a token to those that are whole.

        First come rows that are written to, of whose answer one is next; then prompts.
        """
        if not rows:
            return
        writers = sum(row.embeds_td is None for row in rows)
        timed = self._pace.timed(writers, len(rows) - writers)
        begun = self._clock() if timed else 0.0
        logits_rv = self._forward(rows, self._embedded(rows, new), new)
        for row, count in zip(rows, new, strict=True):
            row.written += count
        whole = [place for place, row in enumerate(rows) if row.left <= 0]
        if timed:
            float(logits_rv[0, 0])  # a GPU has really done it now
            self._pace.note(writers, self._size(new[writers:]), self._clock() - begun)
        if not whole:
            return
        if len(whole) < len(rows):
            logits_rv = logits_rv[whole]
        ended = []
        tokens = choose(logits_rv, [rows[place].sampler for place in whole])
        for place, token in zip(whole, tokens, strict=True):
            if place >= writers:
                rows[place].embeds_td = None
                self._promote(rows[place])
            if not rows[place].take(token):
                ended.append(rows[place])
        for row in reversed(ended):
            self._remove(self.rows.index(row))

    def _embedded(self, rows: Sequence[Request], new: Sequence[int]) -> torch.Tensor:
        """Return the next tokens (n, d) of rows, end to end."""
        last = [row.tokens[-1].id for row in rows if row.embeds_td is None]
        parts = [
            row.embeds_td[row.written : row.written + count]
            for row, count in zip(rows, new, strict=True)
            if row.embeds_td is not None
        ]
        if last:
            ids_r = torch.tensor(last).to(self.model.device)
            parts.insert(0, self._language.get_input_embeddings()(ids_r))
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def _forward(
        self, rows: Sequence[Request], embeds_nd: torch.Tensor, new: Sequence[int]
    ) -> torch.Tensor:
        """Run new tokens of rows; return the logits (r, v)."""
        written = [row.written for row in rows]
        fusion = self.model.fusion
        media = [row.media for row in rows]
        places = [self.rows.index(row) for row in rows]
        with fusion.beside(fusion.together(media, written, new, wide(max(new)))):
            return self._cache.forward(self._language, embeds_nd, places, written, new)

    def _next_prompts(self, watched: bool) -> tuple[list[Request], list[int]]:
        """Return whose prompts are next, first come first served, embedded; and tokens of each."""
        line = sorted(self.rows[self.writing :], key=lambda row: row.number)
        budget = self.settings.chunk
        if watched:
            budget = self._pace.affordable(self.writing, len(line))
        shares = end_to_end if self._flat else side_by_side
        new = shares([row.left for row in line], budget)
        rows = line[: len(new)]
        fresh = [row for row in rows if row.embeds_td is None]
        self.images.encode(
            (image for row in fresh for image in row.images), self.settings.image_batch
        )
        for row in fresh:
            seen = [image.tokens_md for image in row.images if image.tokens_md is not None]
            inputs = self.model.fusion.generation_inputs(self.model.language, [row.prompt], seen)
            row.embeds_td, row.media = inputs["inputs_embeds"][0], inputs.get("media")
        return rows, new

    def _size(self, new: Sequence[int]) -> int:
        """Return the tokens that are computed of so many new ones a row."""
        return sum(new) if self._flat else len(new) * wide(max(new, default=0))

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
