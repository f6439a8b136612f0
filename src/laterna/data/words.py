"""The words that GPT-2's kind of tokenizer cuts a text into, each tokenised once.

Such a tokenizer cuts a text by a regular expression, and merges each word without a look at the
others, so a word has the same ids wherever it stands. Most of its time goes into the cutting. Here
plain ASCII is cut by Python's `re`, which is held against the tokenizer's own cutting, on every
neighbourhood of characters that the expression can tell apart, before it is used.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import chain, product
from typing import Any

from tokenizers import Tokenizer

from laterna.data.chat import any_of

KNOWN_WORDS = 1 << 17
"""Words that are remembered; beyond them all are forgotten, so memory stays bounded."""
_GPT2 = re.compile(
    r"'(?:[stmd]|re|ve|ll)| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+", re.ASCII
)
_GPT2_DIGITS = re.compile(
    r"[0-9]|'(?:[stmd]|re|ve|ll)| ?[A-Za-z]+| ?[^\sA-Za-z0-9]+|\s+(?![^\s0-9])|\s+", re.ASCII
)
_PLAIN = re.compile(r"[\t\n\r\x20-\x7e]*")
_KINDS = ("a", "s", "l", "re", "1", "'", " ", "\n", ".")
"""One of every kind of characters that the expressions tell apart."""


class WordMemo(dict[str, tuple[int, ...]]):
    """The ids of words by their text, asked of the tokenizer when they are missing."""

    def __init__(self, backend: Tokenizer, words: re.Pattern[str]) -> None:
        super().__init__()
        self._backend = backend
        self._words = words
        added = backend.get_added_tokens_decoder().values()
        self._added = any_of(token.content for token in added)

    def __missing__(self, word: str) -> tuple[int, ...]:
        if len(self) >= KNOWN_WORDS:
            self.clear()
        ids = self[word] = tuple(self._backend.encode(word, add_special_tokens=False).ids)
        return ids

    def tokenise(self, text: str) -> list[int] | None:
        """Return the ids of a text; None where it is not plain, or holds an added token."""
        if not _PLAIN.fullmatch(text) or self._added.search(text):
            return None
        return list(chain.from_iterable(map(self.__getitem__, self._words.findall(text))))


def word_memo(backend: Tokenizer) -> WordMemo | None:
    """Return the memo of a tokenizer that cuts as GPT-2's does, digits apart or not; else None."""
    said = json.loads(backend.to_str())["pre_tokenizer"]
    words = _words_of(said)
    return WordMemo(backend, words) if words and _cut_alike(backend, words) else None


def _words_of(step: dict[str, Any]) -> re.Pattern[str] | None:
    steps = step["pretokenizers"] if step["type"] == "Sequence" else [step]
    kinds = [one["type"] for one in steps]
    if not steps[-1].get("use_regex") or steps[-1].get("add_prefix_space"):
        return None
    if kinds == ["ByteLevel"]:
        return _GPT2
    digits = kinds == ["Digits", "ByteLevel"] and steps[0]["individual_digits"]
    return _GPT2_DIGITS if digits else None


def _cut_alike(backend: Tokenizer, words: re.Pattern[str]) -> bool:
    """Say whether both cut every neighbourhood alike, and leave a word whole that stands alone."""
    for text in _neighbourhoods():
        own = words.findall(text)
        cut = [text[start:end] for _, (start, end) in backend.pre_tokenizer.pre_tokenize_str(text)]
        if own != cut or any(words.findall(word) != [word] for word in own):
            return False
    return True


def _neighbourhoods() -> Iterator[str]:
    yield from map("".join, product(_KINDS, repeat=4))
    plain = ["\t", "\n", "\r", *map(chr, range(0x20, 0x7F))]
    yield from map("".join, product(_KINDS, plain, _KINDS))
