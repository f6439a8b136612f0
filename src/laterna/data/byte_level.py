"""Byte-level tokenizers: every token is some bytes, and a text's tokens are its bytes, in order.

That says more cheaply than offsets and a decoder what preparation has to know of each token: where
it stands, and what it will be decoded to. It holds for byte-level BPE (GPT-2, Llama 3, Qwen,
SmolLM) as its `tokenizer.json` says, and is held against the text of every record.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import accumulate, chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from laterna.data.chat import any_of
from laterna.data.shapes import Fitted, Shape
from laterna.data.words import word_memo
from laterna.records import Record

Place = tuple[int, int]
"""A place in the text of a shape: the number of a piece, and a character of it."""


class _Cut(Record, frozen=True):
    """A shape's text between special tokens, where the tokenizer begins anew in any case.

    Fixed ids stand before the first section, between two, and behind the last.
    """

    sections: tuple[tuple[Place, Place], ...]
    fixed: tuple[list[int], ...]


class ByteLevel:
    """The bytes of every token of a byte-level tokenizer."""

    def __init__(self, backend: Tokenizer, sentinel: str) -> None:
        """Take a tokenizer that `is_byte_level`, and an added token that often stands in texts."""
        self.backend = backend
        self.sentinel = sentinel
        (self._sentinel_id,) = backend.encode(sentinel, add_special_tokens=False).ids
        by_id = {number: token for token, number in backend.get_vocab().items()}
        bytes_of = _bytes_of_characters()
        self._bytes = [_token_bytes(by_id.get(n, ""), bytes_of) for n in range(max(by_id) + 1)]
        self._lengths = np.array([len(content) for content in self._bytes], np.int64)
        added = list(backend.get_added_tokens_decoder().values())
        self._added = [token.content for token in added]
        self._pattern = any_of(self._added)
        # A token that takes white space with it, or looks at its neighbours, reaches over a cut.
        self._plain = not any(t.lstrip or t.rstrip or t.single_word or t.normalized for t in added)
        self._memo = word_memo(backend) if self._plain else None
        self._cuts: dict[Shape, _Cut] = {}

    def encode(self, chats: Sequence[Fitted]) -> list[list[int]]:
        """Return the ids of each chat's text.

        What its shape fixes is tokenised once, up to special tokens: at these a tokenizer without
        normaliser cuts before all else, so what stands between them does not see beyond them.
        """
        cuts = [self._cut(chat.shape) for chat in chats]
        sections = [
            chat.rendered.text[chat.starts[a] + i : chat.starts[b] + j]
            for chat, cut in zip(chats, cuts, strict=True)
            for (a, i), (b, j) in cut.sections
        ]
        encoded = iter(self._encode_texts(sections))
        made = []
        for cut in cuts:
            ids = list(cut.fixed[0])
            for fixed in cut.fixed[1:]:
                ids += next(encoded)
                ids += fixed
            made.append(ids)
        return made

    def _encode_texts(self, texts: Sequence[str]) -> list[list[int]]:
        if self._memo is None:
            return self._encode_whole(texts)
        ids = [self._encode_words(text) for text in texts]
        missing = [text for text, known in zip(texts, ids, strict=True) if known is None]
        others = iter(self._encode_whole(missing))
        return [next(others) if known is None else known for known in ids]

    def _encode_whole(self, texts: Sequence[str]) -> list[list[int]]:
        encoded = self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [one.ids for one in encoded]

    def _encode_words(self, text: str) -> list[int] | None:
        """Return the ids of a text whose words the memo can tell, sentinels between them."""
        assert self._memo is not None
        ids: list[int] = []
        for number, part in enumerate(text.split(self.sentinel)):
            found = self._memo.tokenise(part)
            if found is None:
                return None
            if number:
                ids.append(self._sentinel_id)
            ids += found
        return ids

    def find_runs(
        self, ids: Sequence[list[int]], chats: Sequence[Fitted]
    ) -> Iterator[list[int] | None]:
        """Yield for each chat where the tokens of its spans begin and end, in turn.

        None is yielded where the tokens' bytes are not the text's, and where a token reaches over
        a span's border. Otherwise the tokens of a run decode to the text of its spans.
        """
        texts = [chat.rendered.text.encode() for chat in chats]
        whole = [
            b"".join(map(self._bytes.__getitem__, tokens)) == text
            for tokens, text in zip(ids, texts, strict=True)
        ]
        flat = np.fromiter(chain.from_iterable(ids), np.int64)
        ends: NDArray[np.int64] = np.concatenate([[0], np.cumsum(self._lengths[flat])])
        firsts = list(accumulate(map(len, ids), initial=0))
        borders = [_byte_borders(chat, text) for chat, text in zip(chats, texts, strict=True)]
        begins = np.repeat(ends[firsts[:-1]], [len(one) for one in borders])
        wanted = begins + np.fromiter(chain.from_iterable(borders), np.int64)
        found = np.searchsorted(ends, wanted)
        exact = ends[np.minimum(found, len(ends) - 1)] == wanted
        places, hits, at = found.tolist(), exact.tolist(), 0
        for good, first, own in zip(whole, firsts[:-1], borders, strict=True):
            mine = slice(at, at + len(own))
            at = mine.stop
            runs = [place - first for place in places[mine]]
            yield _joined(runs) if good and all(hits[mine]) else None

    def _cut(self, shape: Shape) -> _Cut:
        cut = self._cuts.get(shape)
        if cut is None:
            cut = self._cuts[shape] = self._cut_between(shape)
        return cut

    def _cut_between(self, shape: Shape) -> _Cut:
        last = len(shape.pieces) - 1
        at: Place = (0, 0)
        sections: list[tuple[Place, Place]] = []
        fixed: list[list[int]] = []
        for number, piece in enumerate(shape.pieces):
            found = [m for m in self._pattern.finditer(piece) if self._stands_apart(m.group())]
            if not found and 0 < number < last:
                continue
            begin = 0 if number == 0 else found[0].start() if found else len(piece)
            end = len(piece) if number == last else found[-1].end() if found else 0
            if number:
                sections.append((at, (number, begin)))
            text = piece[begin:end]
            fixed.append(self.backend.encode(text, add_special_tokens=False).ids)
            at = (number, end)
        return _Cut(sections=tuple(sections), fixed=tuple(fixed))

    def _stands_apart(self, token: str) -> bool:
        """Say whether an added token is found wherever its text stands, whatever is beside it."""
        return self._plain and not any(
            (token in other and token != other)
            or any(other.endswith(token[:n]) or token.endswith(other[:n]) for n in _parts(token))
            for other in self._added
        )


def is_byte_level(backend: Tokenizer) -> bool:
    """Say whether a tokenizer's tokens are the bytes of its text, and are decoded to them."""
    said = json.loads(backend.to_str())
    model = said["model"]
    return (
        said["normalizer"] is None
        and (said["decoder"] or {}).get("type") == "ByteLevel"
        and model["type"] == "BPE"
        and not any(
            model.get(key) for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix")
        )
        and _cuts_alone(said["pre_tokenizer"])
    )


def _cuts_alone(step: dict[str, Any] | None) -> bool:
    """Say whether a pre-tokenizer treats every part of a text as if it stood alone."""
    kind = (step or {}).get("type")
    if step is None or kind not in ("Sequence", "ByteLevel", "Digits", "Split"):
        return False
    if kind == "Sequence":
        steps = step["pretokenizers"]
        return all(map(_cuts_alone, steps)) and any(one["type"] == "ByteLevel" for one in steps)
    return not step.get("add_prefix_space", False)


def _parts(token: str) -> range:
    return range(1, len(token))


def _bytes_of_characters() -> dict[str, int]:
    """Return the byte that each character of a byte-level vocabulary stands for (GPT-2)."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in shown]
    pairs = {chr(byte): byte for byte in shown}
    return pairs | {chr(256 + place): byte for place, byte in enumerate(others)}


def _token_bytes(token: str, bytes_of: dict[str, int]) -> bytes:
    """Return what the byte-level decoder makes of a token."""
    if all(character in bytes_of for character in token):
        return bytes(bytes_of[character] for character in token)
    return token.encode()


def _byte_borders(chat: Fitted, text: bytes) -> list[int]:
    borders = [border for span in chat.rendered.spans for border in span]
    if len(text) == len(chat.rendered.text):
        return borders
    return [len(chat.rendered.text[:border].encode()) for border in borders]


def _joined(runs: list[int]) -> list[int]:
    """Join runs that touch, and leave those without tokens out."""
    joined: list[int] = []
    for start, stop in zip(runs[::2], runs[1::2], strict=True):
        if joined and joined[-1] == start:
            joined[-1] = stop
        elif start < stop:
            joined += (start, stop)
    return joined
