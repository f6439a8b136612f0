"""Finds replies that say almost what an earlier one said: MinHash over word triples.

A text's signature is the least value of each of `_HASHES` hash functions over its word triples;
two signatures agree in about the share of triples that the texts have in common (Jaccard's
index; Broder 1997). Only texts that agree in a whole band of their signatures are compared.

Signatures lie in a temporary SQLite database, which the operating system removes with the
process: memory does not grow with the number of texts.
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
import weakref
import zlib

import numpy as np
from numpy.typing import NDArray

_BANDS, _ROWS = 8, 6
_HASHES = _BANDS * _ROWS
_WORD = re.compile(r"\w+")
_CACHE_KIB = 8192
"""Pages of the index that are held in memory; the rest is on disk."""
_SCHEMA = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE signatures (number INTEGER PRIMARY KEY, signature BLOB NOT NULL);
CREATE TABLE bands (key INTEGER PRIMARY KEY, number INTEGER NOT NULL);
"""
_SHARING_A_BAND = f"""
SELECT DISTINCT number, signature FROM bands JOIN signatures USING (number)
WHERE key IN ({", ".join("?" * _BANDS)})
"""


class NearDuplicates:
    """Remembers texts; tells of each new one whether it nearly repeats an earlier one.

    `threshold` is the share of word triples in common from which on a text repeats another.
    Texts of fewer than `least_words` words never do: short answers are rightly alike. About
    400 bytes of disk a remembered text; the same texts in the same order give the same answers.
    """

    def __init__(self, threshold: float = 0.85, least_words: int = 20) -> None:
        rng = np.random.default_rng(20_230_417)
        self._threshold = threshold
        self._least_words = max(3, least_words)
        self._factors = rng.integers(0, 2**63, size=(_HASHES, 1), dtype=np.uint64) * 2 + 1
        self._shifts = rng.integers(0, 2**63, size=(_HASHES, 1), dtype=np.uint64)
        self._size = 0
        # The empty name stands for a private file that is gone when it is closed.
        self._index = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._index.executescript(f"PRAGMA cache_size = -{_CACHE_KIB};{_SCHEMA}BEGIN;")
        weakref.finalize(self, self._index.close)

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
        alike = self._index.execute(_SHARING_A_BAND, keys)
        if any(self._agree(signature, earlier) for _, earlier in alike):
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

    def _agree(self, signature: NDArray[np.uint32], earlier: bytes) -> bool:
        same = np.count_nonzero(np.frombuffer(earlier, dtype=np.uint32) == signature)
        return bool(same / _HASHES >= self._threshold)

    def _remember(self, signature: NDArray[np.uint32], keys: list[int]) -> None:
        row = (self._size, signature.tobytes())
        self._index.execute("INSERT INTO signatures VALUES (?, ?)", row)
        # The first text with a band keeps it: later ones with the same were compared with it.
        bands = [(key, self._size) for key in keys]
        self._index.executemany("INSERT OR IGNORE INTO bands VALUES (?, ?)", bands)
        self._size += 1


def _band_key(signature: NDArray[np.uint32], band: int) -> int:
    """Return a 64-bit key of one band; equal for equal bands of one number only."""
    part = signature[band * _ROWS : (band + 1) * _ROWS].tobytes()
    return int.from_bytes(
        hashlib.blake2b(part, digest_size=8, salt=bytes([band])).digest(), signed=True
    )
