"""From logits to tokens, and from tokens to text that can be shown.

Shapes: r rows · v vocabulary.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from laterna.errors import LaternaError
from laterna.records import Record

MOST_TOP_LOGPROBS = 20
"""Likeliest tokens that may be asked for beside each token; what the OpenAI API allows."""
_CUT = "\N{REPLACEMENT CHARACTER}"
"""Stands at the end of decoded text while a character's bytes have not all been written."""
_WINDOW = 24
"""Tokens that are decoded again with a new one: some are written differently behind others."""


class Decoding(Record):
    """How tokens are chosen, and when they end. Raises LaternaError for what cannot be meant."""

    max_new_tokens: int
    """Longest answer, in tokens."""
    temperature: float = 0.0
    """0: the likeliest token each time."""
    top_p: float = 1.0
    """Nucleus sampling: draw from the likeliest tokens that together have this probability."""
    seed: int | None = None
    """Of what is drawn; None: torch's own generator goes on."""
    top_k: int = 0
    """Tokens are drawn among so many of the likeliest; 0: among all."""
    stop: tuple[str, ...] = ()
    """Texts that end an answer, and are no part of it."""
    logprobs: int | None = None
    """Give each token's log probability and those of so many of the likeliest; None: neither."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise LaternaError(f"max_new_tokens = {self.max_new_tokens}: give at least 1")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise LaternaError(f"temperature = {self.temperature}: give 0 (greedy) or more")
        if not 0 < self.top_p <= 1:
            raise LaternaError(f"top_p = {self.top_p}: give a probability above 0, at most 1")
        if self.top_k < 0:
            raise LaternaError(f"top_k = {self.top_k}: give 0 (all tokens) or more")
        if self.seed is not None and not -(2**63) <= self.seed < 2**63:
            raise LaternaError(f"seed = {self.seed}: give an integer of at most 64 bits")
        if not all(self.stop):
            raise LaternaError("stop: an empty text would end every answer before it begins")
        if self.logprobs is not None and not 0 <= self.logprobs <= MOST_TOP_LOGPROBS:
            raise LaternaError(f"logprobs = {self.logprobs}: give 0 to {MOST_TOP_LOGPROBS}")


class Token(NamedTuple):
    """A token of an answer."""

    id: int
    logprob: float | None = None
    """Of the model's own distribution, before temperature, `top_k` and `top_p`; None: not asked."""
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest ids with their log probabilities, as many as were asked for."""


class Sampler:
    """One request's way to choose tokens, with a generator of its own.

    So what is drawn does not hang on who else is being answered.
    """

    def __init__(self, decoding: Decoding, device: torch.device) -> None:
        self.decoding = decoding
        self.draws = decoding.temperature > 0
        self._generator = torch.Generator(device) if self.draws else None
        if self._generator is not None:
            seed = decoding.seed
            drawn = int(torch.randint(2**62, ())) if seed is None else seed
            self._generator.manual_seed(drawn)

    def draw(self, logits_v: Tensor) -> Tensor:
        """Draw one id.

        Each token's probability races against a random time of its own: a rounding error in one
        probability, which differs with the size of a batch, then changes no other token's luck.
        """
        decoding = self.decoding
        scores_v = logits_v / decoding.temperature
        if 0 < decoding.top_k < len(scores_v):
            least = scores_v.topk(decoding.top_k).values[-1]
            scores_v = scores_v.masked_fill(scores_v < least, -math.inf)
        if decoding.top_p < 1:
            ordered_v, order_v = scores_v.softmax(-1).sort(descending=True, stable=True)
            beyond_v = ordered_v.cumsum(-1) - ordered_v >= decoding.top_p
            scores_v = scores_v.index_fill(0, order_v[beyond_v], -math.inf)
        times_v = torch.empty_like(scores_v).exponential_(generator=self._generator)
        return (scores_v.softmax(-1) / times_v).argmax(-1)


def choose(logits_rv: Tensor, samplers: Sequence[Sampler]) -> list[Token]:
    """Choose a token a row, each by its own sampler."""
    logits_rv = logits_rv.float()
    ids_r = logits_rv.argmax(-1)
    drawn = [row for row, sampler in enumerate(samplers) if sampler.draws]
    if drawn:
        ids_r[drawn] = torch.stack([samplers[row].draw(logits_rv[row]) for row in drawn])
    tokens = [Token(id) for id in ids_r.tolist()]
    for row, sampler in enumerate(samplers):
        if sampler.decoding.logprobs is not None:
            tokens[row] = _with_logprobs(logits_rv[row], tokens[row].id, sampler.decoding.logprobs)
    return tokens


def _with_logprobs(logits_v: Tensor, chosen: int, count: int) -> Token:
    logprobs_v = logits_v.log_softmax(-1)
    values, ids = logprobs_v.topk(min(count, len(logprobs_v)))
    top = tuple(zip(ids.tolist(), values.tolist(), strict=True))
    return Token(chosen, float(logprobs_v[chosen]), top)


def decode(tokenizer: Any, ids: Sequence[int]) -> str:
    """Return the text of ids, without special tokens."""
    return str(tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=True))


class AnswerText:
    """An answer's text as it grows, handed out in pieces that need never be taken back.

    A character is handed out when all its bytes are there, and text that may be the beginning of a
    stop text when it turns out not to be. `text` is the answer: all pieces, and no stop text.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str]) -> None:
        self.stopped = False
        """Whether a stop text has ended the answer."""
        self.text = ""
        self._tokenizer = tokenizer
        self._stop = stop
        self._ids: list[int] = []
        self._decoded = ""  # of self._ids, but for what is not a whole character yet
        self._known = ""  # the end of it: the text of the window
        self._sent = 0
        self._waiting: list[tuple[int, Token]] = []  # each with where its text begins

    def push(self, token: Token) -> tuple[str, list[Token]]:
        """Add a token; return the text that can be shown now, and the tokens that it is of."""
        self._waiting.append((len(self._decoded), token))
        self._ids.append(token.id)
        self._decode()
        return self._release(final=False)

    def end(self) -> tuple[str, list[Token]]:
        """Return what is left when no token follows."""
        self._decode(final=True)
        return self._release(final=True)

    def _decode(self, *, final: bool = False) -> None:
        text = decode(self._tokenizer, self._ids)
        if text.endswith(_CUT) and not final:
            return
        if len(text) > len(self._known):
            self._decoded += text[len(self._known) :]
            self._known = text
        if len(self._ids) > _WINDOW:
            self._ids = self._ids[-_WINDOW // 2 :]
            self._known = decode(self._tokenizer, self._ids)

    def _release(self, *, final: bool) -> tuple[str, list[Token]]:
        places = [self._decoded.find(stop, self._sent) for stop in self._stop]
        end = min((place for place in places if place >= 0), default=-1)
        self.stopped = self.stopped or end >= 0
        if end < 0:
            end = len(self._decoded) - (0 if final else self._held())
        piece = self._decoded[self._sent : end]
        self._sent, self.text = end, self.text + piece
        everything = final and not self.stopped
        ready = [token for start, token in self._waiting if start < end or everything]
        self._waiting = self._waiting[len(ready) :]
        return piece, ready

    def _held(self) -> int:
        """Return how many characters at the end may be the beginning of a stop text."""
        unsent = self._decoded[self._sent :]
        longest = max((len(stop) for stop in self._stop), default=1) - 1
        for length in range(min(longest, len(unsent)), 0, -1):
            if any(stop.startswith(unsent[-length:]) for stop in self._stop):
                return length
        return 0


class AnswerStore:
    """The tokens of the last answers: their text can be cut into others, and often is when it is
    read again. May be asked by any thread.
    """

    def __init__(self, tokenizer: Any, most: int = 256) -> None:
        self._tokenizer = tokenizer
        self._kept: deque[tuple[int, list[int]]] = deque(maxlen=most)
        self._lock = threading.Lock()

    def keep(self, prompt: Sequence[int], ids: list[int]) -> None:
        """Keep the ids of an answer to a prompt."""
        with self._lock:
            self._kept.append((hash(tuple(prompt)), ids))

    def find(self, prompt: Sequence[int], text: str) -> list[int]:
        """Return the ids of an answer with this text, or that begins with it (it was stopped, or a
        stop text is cut off); empty: none is known.
        """
        key, text = hash(tuple(prompt)), text.strip()
        with self._lock:
            known = [ids for one, ids in reversed(self._kept) if one == key]
        for ids in known:
            if not decode(self._tokenizer, ids).strip().startswith(text):
                continue
            for end in range(len(ids), 0, -1):
                found = decode(self._tokenizer, ids[:end]).strip()
                if found == text:
                    return ids[:end]
                if len(found) < len(text):
                    break
        return []
