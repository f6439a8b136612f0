"""Words, each tokenised once: its ids, and the characters that each of them stands for.

A word is remembered only where its tokens, decoded, are that word. So what is made of remembered
words needs no decoding: it says what it was made from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tokenizers import Encoding, Tokenizer

from laterna.data.chat import any_of
from laterna.data.cutting import SPACE, Cutting, find_cutting

KNOWN_WORDS = 1 << 17
"""Words that are remembered; beyond them all are forgotten, so memory stays bounded."""
LONGEST = 64
"""Characters of a word that is remembered: languages without spaces have words of any length."""

Packed = bytes
"""Tokens as pairs of 32 bits: an id, and how many characters further the next token begins."""
SPACED = 1 << 30
"""Is added to that number where the token is decoded with a space that no text has."""

OPENING, AFTER_TOKEN, INSIDE = 0, 1, 2
"""Where a word stands: first in the text, first behind an added token, behind another word."""

_ANCHOR = "a"
"""A word, to have others stand behind one."""


class UnprovedError(LookupError):
    """What a text's words do not say; the tokenizer has to."""


class Memo(dict[str, Packed]):
    """The tokens of words by their text, asked of the tokenizer when they are missing."""

    def __init__(self, backend: Tokenizer, before: str, *, spaced: bool) -> None:
        """Take the text behind which the words stand, and whether they may get a space there."""
        super().__init__()
        self._backend = backend
        self._before = before
        self._spaced = spaced
        self._opening = _ids(backend, before)
        self._anchor = _ids(backend, _ANCHOR)

    def __missing__(self, word: str) -> Packed:
        """Raise UnprovedError where the tokens do not say the word."""
        encoding = self._backend.encode(self._before + word, add_special_tokens=False)
        first = len(self._opening)
        if encoding.ids[:first] != self._opening:
            raise UnprovedError(word)
        ids = encoding.ids[first:]
        said = written(self._backend, self._anchor, ids)
        if said != word and not (self._spaced and said == f" {word}"):
            raise UnprovedError(word)
        lengths = _lengths(encoding, first, len(self._before), len(word))
        lengths[0] += SPACED if said != word else 0
        packed = pack(ids, lengths)
        if len(word) <= LONGEST:
            if len(self) >= KNOWN_WORDS:
                self.clear()
            self[word] = packed
        return packed


class Words:
    """Tokenises texts word by word."""

    def __init__(self, backend: Tokenizer, cutting: Cutting, sentinel: str) -> None:
        """Take how the tokenizer cuts, and an added token of it."""
        added = list(backend.get_added_tokens_decoder().values())
        self.added = any_of(token.content for token in added)
        self._findall = cutting.words.findall
        self._in_domain = cutting.domain.fullmatch
        self._joined = cutting.joined
        self._backend = backend
        self._tokens = [token.content for token in added]
        self.added_spaces = any(" " in token for token in self._tokens)
        self._known: dict[str, Packed] = {}
        inside = Memo(backend, _ANCHOR if cutting.spaced else "", spaced=False)
        self._memos = [inside] * 3
        if cutting.spaced:
            self._memos[OPENING] = Memo(backend, "", spaced=True)
            self._memos[AFTER_TOKEN] = Memo(backend, sentinel, spaced=True)

    def added_token(self, token: str) -> Packed:
        """Return the token of an added token's text. Raises UnprovedError where it does not say it.

        Such tokens are found from left to right, the longest first, by the tokenizer as by us.
        """
        if token not in self._known:
            ids = _ids(self._backend, token)
            if len(ids) != 1 or written(self._backend, _ids(self._backend, _ANCHOR), ids) != token:
                raise UnprovedError(token)
            self._known[token] = pack(ids, [len(token)])
        return self._known[token]

    def stands_apart(self, token: str) -> bool:
        """Say whether an added token is found wherever its text stands, whatever is beside it."""
        parts = range(1, len(token))
        return not any(
            (token in other and token != other)
            or any(other.endswith(token[:n]) or token.endswith(other[:n]) for n in parts)
            for other in self._tokens
        )

    def tokenise(self, text: str, where: int) -> Packed:
        """Return the tokens of a text that begins at such a place.

        Raises UnprovedError where its words do not say them.
        """
        parts, at = [], 0
        for found in self.added.finditer(text):
            if at < found.start():
                parts += self._stretch(text[at : found.start()], where)
            parts.append(self.added_token(found.group()))
            at, where = found.end(), AFTER_TOKEN
        if at < len(text):
            parts += self._stretch(text[at:], where)
        return b"".join(parts)

    def _stretch(self, text: str, where: int) -> list[Packed]:
        if not self._in_domain(text) or (self._joined and self._joined.search(text)):
            raise UnprovedError(text)
        words = self._findall(text)
        first = self._memos[where][words[0]]
        return [first, *map(self._memos[INSIDE].__getitem__, words[1:])]


def find_words(backend: Tokenizer, said: dict[str, Any], sentinel: str) -> Words | None:
    """Return what tokenises word by word, None where the tokenizer is not known to work so.

    `said` is its `tokenizer.json`, `sentinel` an added token of it.
    """
    added = list(backend.get_added_tokens_decoder().values())
    # A token that takes white space with it, or looks at its neighbours, reaches over a cut, and
    # those that are looked for in normalised text are found in that, and after the others.
    if any(t.lstrip or t.rstrip or t.single_word for t in added):
        return None
    late = {token.normalized for token in added if token.content != sentinel}
    if late == {True, False} or (late == {True} and said["normalizer"] is not None):
        return None
    if not _decodes_in_turn(said["decoder"]):
        return None
    cutting = find_cutting(backend, said)
    return None if cutting is None else Words(backend, cutting, sentinel)


def pack(ids: Sequence[int], lengths: Sequence[int]) -> Packed:
    """Return tokens as bytes."""
    return np.array([ids, lengths], np.int32).T.tobytes()


def written(backend: Tokenizer, before: list[int], ids: list[int]) -> str | None:
    """Return what tokens add to others before them, decoded; None where they change those."""
    opening = backend.decode(before, skip_special_tokens=False)
    whole = backend.decode([*before, *ids], skip_special_tokens=False)
    return whole[len(opening) :] if whole.startswith(opening) else None


def _ids(backend: Tokenizer, text: str) -> list[int]:
    ids: list[int] = backend.encode(text, add_special_tokens=False).ids
    return ids


def _lengths(encoding: Encoding, first: int, begin: int, length: int) -> list[int]:
    """Return how many characters further the next token begins, for each of a word's.

    Tokens that share a character begin at once, and the last of them has its length: no border
    between words falls between them. Raises UnprovedError where they do not stand in a row.
    """
    offsets = [(start - begin, end - begin) for start, end in encoding.offsets[first:]]
    starts = [0, *(start for start, _ in offsets[1:])]
    reach = 0
    for number, (start, end) in enumerate(offsets):
        if number and start != starts[number - 1] and start < reach:
            raise UnprovedError
        if not 0 <= start < end <= length:
            raise UnprovedError
        reach = max(reach, end)
    return [after - start for start, after in zip(starts, [*starts[1:], length], strict=True)]


def _decodes_in_turn(decoder: dict[str, Any] | None) -> bool:
    """Say whether tokens are decoded one after the other, but for spaces before the first."""
    kind = (decoder or {}).get("type")
    if decoder is None or kind != "Sequence":
        return kind in ("ByteLevel", "Metaspace")
    known = (
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    )
    return all(
        step in known or (step["type"] == "Strip" and step["content"] == " " and step["stop"] == 0)
        for step in decoder["decoders"]
    )
