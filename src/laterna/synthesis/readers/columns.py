"""Columns that hold millions of short values in little more than the values' own bytes.

A box of COCO's takes about 65 bytes here: four floats, three numbers and its id.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator

import numpy as np


class Texts:
    """A growing list of texts, kept as one run of UTF-8."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._ends = array("q")

    def append(self, text: str) -> None:
        """Add one text at the end."""
        self._bytes += text.encode("utf-8", "surrogatepass")
        self._ends.append(len(self._bytes))

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> str:
        start = self._ends[index - 1] if index else 0
        return self._bytes[start : self._ends[index]].decode("utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(len(self)))

    def repeats(self) -> list[int]:
        """Return, in order, the places of texts that stand at an earlier place too."""
        hashes = np.fromiter((hash(text) for text in self), np.int64, len(self))
        order = np.argsort(hashes, kind="stable")
        alike = np.flatnonzero(hashes[order][1:] == hashes[order][:-1])
        # equal hashes may be chance: the few candidates are compared as they are
        places = sorted({int(order[place + step]) for place in alike for step in (0, 1)})
        seen: set[str] = set()
        found = []
        for place in places:
            text = self[place]
            if text in seen:
                found.append(place)
            seen.add(text)
        return found


class Groups:
    """Rows by the group they belong to, in the order of the rows."""

    def __init__(self, group_of_row: array[int], groups: int) -> None:
        numbers = np.frombuffer(group_of_row, np.int64) if group_of_row else np.empty(0, np.int64)
        self._rows = np.argsort(numbers, kind="stable")
        self._ends = np.cumsum(np.bincount(numbers, minlength=groups))

    def __getitem__(self, group: int) -> list[int]:
        start = self._ends[group - 1] if group else 0
        rows: list[int] = self._rows[start : self._ends[group]].tolist()
        return rows
