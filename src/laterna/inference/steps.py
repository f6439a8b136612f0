"""The engine's steps: who joins, who leaves, and one forward for all that are being answered.

Shapes: r rows · t tokens of a row · d width.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from statistics import median

import numpy as np
import torch

from laterna.inference.cache import STEP, PrefixStore, SlotCache, common, rounded, usual_bytes
from laterna.inference.images import ImageStore
from laterna.inference.onednn import packed
from laterna.inference.request import Finish, Request
from laterna.inference.sampling import AnswerStore, choose
from laterna.model.language.causal import positions_of
from laterna.model.vlm import VisionLanguageModel
from laterna.records import Record

WORTH_WAITING = 32
"""Positions of a prompt that another is computing, for which a request waits rather than computes
them too."""
CROWD = 3
"""Fewest that wait for a first token and may hold the others up for longer."""
WIDTHS = 8
"""Pieces of prompts are multiples of this; a step takes one at least."""
WHOLE = 1024
"""Positions of a row that hold most questions about an image, and their answers."""
RECENT = 7
"""Steps by which it is judged how long the next takes."""


class EngineSettings(Record):
    """What the engine may take. Bytes are of the model's own numbers on its own device."""

    rows: int = 32
    """Requests that are answered at once."""
    queue: int = 256
    """Requests that may wait."""
    cache_bytes: int | None = None
    """Keys and values of those that are answered; None: half of a GPU's free memory, 2 GiB else."""
    row_tokens: int | None = 0
    """Positions that are made ready in all rows, or as many as fit, before the first question.
    None: what the cache holds, shared among the rows, but at least 1,024 and at most the model's
    positions. 0: as they are needed; a prompt that is longer than any before then stops everyone
    for a moment."""
    prefix_bytes: int = 512 * 2**20
    """Keys and values that are kept of those that were answered."""
    image_bytes: int = 256 * 2**20
    """Tokens of images that are kept."""
    chunk: int = 512
    """Tokens of prompts that are taken in a step at most."""
    stall: float = 1.25
    """Time that prompts may take in a step while somebody watches an answer being written, in
    steps of that writing: at 1.25 the longest gap stays below 3 usual ones (benchmarks/serving.py,
    `long`)."""
    stall_seconds: float = 0.02
    """The same in seconds, where that is more: nobody sees so short a pause."""
    crowd_seconds: float = 0.25
    """The same while a crowd waits for its first tokens: three or more, and more than a third as
    many as are being answered."""
    image_batch: int = 16
    """Images, or tiles of them, that are encoded at once."""
    packed_bytes: int = 2 * 2**30
    """Copies of the language model's weights in a layout that a CPU multiplies faster by."""


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
        self, model: VisionLanguageModel, settings: EngineSettings, token_bytes: int
    ) -> None:
        super().__init__(model, settings)
        self.writing = 0
        given = settings.cache_bytes
        size = usual_bytes(model.device) if given is None else given
        self.room = size // max(token_bytes, 1)
        self.token_bytes = token_bytes
        self._prefixes = PrefixStore(settings.prefix_bytes)
        # On a CPU, what other programs take of it says nothing about how long a piece may be.
        self._clock = time.thread_time if model.device.type == "cpu" else time.monotonic
        self._written = 0  # steps that wrote
        self._writes: deque[float] = deque(maxlen=RECENT)  # seconds of steps that write
        self._pieces: deque[tuple[int, float]] = deque(maxlen=RECENT)  # tokens and their seconds
        self.forget()

    def forget(self) -> None:
        """Forget all that hangs on the weights, and give the cache's memory back."""
        super().forget()
        self._prefixes.clear()
        language = self.model.language
        if not self.model.fusion.beside_row:  # else its blocks would look at another network
            language = packed(language, self.settings.packed_bytes)
        self._language = language
        self._cache = SlotCache(language.config.get_text_config().num_hidden_layers)
        room, length = self.room or 0, self._row_length()
        if length:
            self._cache.reserve(min(self.settings.rows, room // length), length, room)
            self.ready = self._cache.rows, self._cache.length
            embedding = language.get_input_embeddings().weight[:1].detach()
            with torch.no_grad():
                self._cache.forward(language, embedding[None], [0], [0], [1])

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
            self._written += 1
            # A thread's clock is dear (30 us where this was measured), so seldom read in vain.
            timed = self.writing < len(self.rows) or self._written % RECENT == 0
            begun = self._clock() if timed else 0.0
            self._write()
            if timed:
                self._writes.append(self._clock() - begun)
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
        language = self._language
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
        media = [row.media for row in rows]
        with fusion.beside(fusion.together(media, written, new, embeds_rtd.shape[1])):
            return self._cache.forward(self._language, embeds_rtd, places, written, new)

    def _take_prompts(self, watched: bool) -> None:
        """Take a piece of the prompts that came first; those taken whole get their first token."""
        budget = self._affordable() if watched else self.settings.chunk
        rows, new = self._next_prompts(budget)
        begun = self._clock()
        pairs = zip(rows, new, strict=True)
        embeds_rtd = _padded(
            [row.embeds_td[row.written : row.written + count] for row, count in pairs
             if row.embeds_td is not None]
        )  # fmt: skip
        places = [self.rows.index(row) for row in rows]
        logits_rv = self._forward(rows, embeds_rtd, places, new)
        for row, count in zip(rows, new, strict=True):
            row.written += count
        whole = [place for place, row in enumerate(rows) if not row.left]
        float(logits_rv[0, 0])  # a GPU has really done it now
        self._pieces.append((embeds_rtd[..., 0].numel(), self._clock() - begun))
        if not whole:
            return
        tokens = choose(logits_rv[whole], [rows[place].sampler for place in whole])
        for place, token in zip(whole, tokens, strict=True):
            rows[place].embeds_td = None
            self._promote(rows[place])
            if not rows[place].take(token):
                self._remove(self.writing - 1)

    def _next_prompts(self, budget: int) -> tuple[list[Request], list[int]]:
        """Return whose prompts are next, first come first served, embedded; and tokens of each.

        All are as wide as the widest, so the next is taken in part where it would be wider than
        there is room for.
        """
        line = sorted(self.rows[self.writing :], key=lambda row: row.number)
        rows, widest = [line[0]], min(_wide(line[0].left), budget)
        for row in line[1:]:
            most = budget // (len(rows) + 1)
            if most < widest:
                break
            rows.append(row)
            widest = max(widest, _wide(row.left)) if _wide(row.left) <= most else widest
        new = [row for row in rows if row.embeds_td is None]
        self.images.encode(
            (image for row in new for image in row.images), self.settings.image_batch
        )
        for row in new:
            seen = [image.tokens_md for image in row.images if image.tokens_md is not None]
            inputs = self.model.fusion.generation_inputs(self.model.language, [row.prompt], seen)
            row.embeds_td, row.media = inputs["inputs_embeds"][0], inputs.get("media")
        return rows, [min(row.left, widest) for row in rows]

    def _affordable(self) -> int:
        """Return how many tokens of prompts are taken in the time that they may take.

        A part of a piece's time does not hang on its tokens: the weights are read once. About half
        a step that writes is taken for it; where that is wrong, the time for each token comes out
        wrong by as much the other way, and pieces of one size settle where they should. Medians,
        because a busy machine holds single steps up.
        """
        limits = self.settings
        waiting = len(self.rows) - self.writing
        crowd = waiting >= CROWD and 3 * waiting > self.writing
        least = limits.crowd_seconds if crowd else limits.stall_seconds
        usual = median(self._writes) if self._writes else 0.0
        allowed = max(limits.stall * usual, least)
        fixed = min(usual, allowed) / 2
        each = [max(seconds - fixed, seconds / 8) / tokens for tokens, seconds in self._pieces]
        piece = int((allowed - fixed) / median(each)) if each and allowed else 0
        return min(max(piece // WIDTHS * WIDTHS, WIDTHS), limits.chunk)

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


def _wide(tokens: int) -> int:
    """Return the width that so many tokens are given: one of few, since some kernels are compiled
    for each.
    """
    return tokens if tokens < WIDTHS else -(-tokens // WIDTHS) * WIDTHS


def _padded(rows: list[torch.Tensor]) -> torch.Tensor:
    """Return rows (t, d) as one tensor, padded in front."""
    width = _wide(max(len(row) for row in rows))
    padded_rtd = rows[0].new_zeros(len(rows), width, rows[0].shape[1])
    for padded_td, row in zip(padded_rtd, rows, strict=True):
        padded_td[width - len(row) :] = row
    return padded_rtd
