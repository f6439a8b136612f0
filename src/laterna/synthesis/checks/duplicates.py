"""Finds replies that say almost what an earlier one said: MinHash over word triples.

A text's signature is the least value of each of `_HASHES` hash functions over its word triples;
two signatures agree in about the share of triples that the texts have in common (Jaccard's
index; Broder 1997). Only texts that agree in a whole band of their signatures are compared.
"""

from __future__ import annotations

import re
import zlib

import numpy as np
from numpy.typing import NDArray

_BANDS, _ROWS = 8, 6
_HASHES = _BANDS * _ROWS
_WORD = re.compile(r"\w+")


class NearDuplicates:
    """Remembers texts; tells of each new one whether it nearly repeats an earlier one.

    `threshold` is the share of word triples in common from which on a text repeats another.
    Texts of fewer than `least_words` words never do: short answers are rightly alike. About
    300 bytes a remembered text; the same texts in the same order give the same answers.
    """

    def __init__(self, threshold: float = 0.85, least_words: int = 20) -> None:
        rng = np.random.default_rng(20_230_417)
        self._threshold = threshold
        self._least_words = max(3, least_words)
        self._factors = rng.integers(0, 2**63, size=(_HASHES, 1), dtype=np.uint64) * 2 + 1
        self._shifts = rng.integers(0, 2**63, size=(_HASHES, 1), dtype=np.uint64)
        self._signatures = np.empty((1024, _HASHES), dtype=np.uint32)
        self._size = 0
        self._bands = _Slots()

    def __len__(self) -> int:
        """Return the number of remembered texts."""
        return self._size

    def add(self, text: str) -> bool:
        """Return True if the text nearly repeats a remembered one; else remember it."""
        words = _WORD.findall(text.lower())
        if len(words) < self._least_words:
            return False
        signature = self._signature(words)
        keys = [_band_key(signature, band) for band in range(_BANDS)]
        rows = {row for key in keys if (row := self._bands.find(key)) is not None}
        if any(self._agree(signature, row) for row in sorted(rows)):
            return True
        self._remember(signature, keys)
        return False

    def _signature(self, words: list[str]) -> NDArray[np.uint32]:
        triples = {" ".join(words[at : at + 3]) for at in range(len(words) - 2)}
        # crc32, since Python's own hash of strings differs from process to process
        codes = np.array([zlib.crc32(triple.encode()) for triple in triples], dtype=np.uint64)
        mixed = (self._factors * codes[None, :] + self._shifts) >> np.uint64(32)
        least: NDArray[np.uint32] = mixed.min(axis=1).astype(np.uint32)
        return least

    def _agree(self, signature: NDArray[np.uint32], row: int) -> bool:
        share = np.count_nonzero(self._signatures[row] == signature) / _HASHES
        return bool(share >= self._threshold)

    def _remember(self, signature: NDArray[np.uint32], keys: list[int]) -> None:
        if self._size == len(self._signatures):
            self._signatures = np.concatenate([self._signatures, np.empty_like(self._signatures)])
        self._signatures[self._size] = signature
        for key in keys:
            self._bands.put(key, self._size)
        self._size += 1


def _band_key(signature: NDArray[np.uint32], band: int) -> int:
    """Return a non-zero 64-bit key of one band; equal for equal bands of one number only."""
    part = signature[band * _ROWS : (band + 1) * _ROWS].tobytes()
    return (zlib.crc32(part) << 32 | zlib.crc32(part[::-1], band + 1)) or 1


class _Slots:
    """Non-zero 64-bit key to row, first one kept: a table of 12 bytes a slot.

    A dictionary of the same would take ten times the memory, and a run has millions of keys.
    """

    def __init__(self) -> None:
        self._keys = np.zeros(1 << 14, dtype=np.uint64)
        self._rows = np.zeros(1 << 14, dtype=np.int32)
        self._used = 0

    def find(self, key: int) -> int | None:
        """Return the row of a key, or None."""
        at = self._slot(key)
        return int(self._rows[at]) if self._keys[at] else None

    def put(self, key: int, row: int) -> None:
        """Give a key its row, unless it has one."""
        if self._used * 3 > len(self._keys) * 2:
            self._grow()
        at = self._slot(key)
        if not self._keys[at]:
            self._keys[at], self._rows[at] = key, row
            self._used += 1

    def _slot(self, key: int) -> int:
        last = len(self._keys) - 1
        at = (key ^ key >> 29) & last
        while (there := int(self._keys[at])) and there != key:
            at = (at + 1) & last
        return at

    def _grow(self) -> None:
        taken = np.flatnonzero(self._keys)
        keys, rows = self._keys[taken], self._rows[taken]
        self._keys = np.zeros(2 * len(self._keys), dtype=np.uint64)
        self._rows = np.zeros(len(self._keys), dtype=np.int32)
        for key, row in zip(keys.tolist(), rows.tolist(), strict=True):
            at = self._slot(key)
            self._keys[at], self._rows[at] = key, row
