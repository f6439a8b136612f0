"""The training records nearest to a question, with the words that their teacher saw.

Nearness is the cosine between the sets of words of two exchanges, each word weighted by how rare
it is in the training records (inverse document frequency).
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from laterna.analysis.coverage import exchanges_of
from laterna.analysis.proxy_lookup import ProxyLookup
from laterna.data.sources import read_rows
from laterna.errors import LaternaError
from laterna.recipe import SourceSettings
from laterna.records import InstructionRecord, Proxy
from laterna.scenes.annotations import stream_scenes
from laterna.scenes.vocabulary import words_of

MOST_RECORDS = 100_000
"""Records of a source that are read; the page says where there are more."""


class Nearest(NamedTuple):
    """One exchange of a training record, and how near it is to a question."""

    record: InstructionRecord
    question: str
    answer: str
    similarity: float
    """0 to 1."""
    times: int
    """How often the same exchange is in the data."""
    source: SourceSettings


class TrainingRecords:
    """The exchanges of training sources, found again by their words.

    `notes` says what could not be read. Each different exchange counts once, with the first record
    that has it.
    """

    def __init__(self, sources: Iterable[SourceSettings]) -> None:
        self.notes: list[str] = []
        self._found: dict[tuple[str, str], tuple[InstructionRecord, SourceSettings]] = {}
        self._times: Counter[tuple[str, str]] = Counter()
        for source in sources:
            try:
                self._read(source)
            except LaternaError as error:
                self.notes.append(f"the training records cannot be read: {error}")
        self._exchanges = list(self._found)
        postings: defaultdict[str, list[int]] = defaultdict(list)
        for number, exchange in enumerate(self._exchanges):
            for word in _words(*exchange):
                postings[word].append(number)
        self._postings = {word: np.array(where) for word, where in postings.items()}
        n = len(self._exchanges)
        self._weights = {word: math.log(1 + n / len(at)) for word, at in self._postings.items()}
        squares = np.zeros(n)
        for word, where in self._postings.items():
            squares[where] += self._weights[word] ** 2
        self._norms = np.sqrt(squares)

    def nearest(self, question: str, answer: str, count: int) -> list[Nearest]:
        """Return the `count` nearest exchanges, the nearest first; fewer if no word is shared."""
        if not self._exchanges:
            return []
        asked = [word for word in _words(question, answer) if word in self._weights]
        products = np.zeros(len(self._exchanges))
        for word in asked:
            products[self._postings[word]] += self._weights[word] ** 2
        norm = math.sqrt(math.fsum(self._weights[word] ** 2 for word in asked)) or 1.0
        likeness = products / (self._norms * norm)
        best = np.argsort(-likeness, kind="stable")[:count].tolist()
        return [self._nearest(place, float(likeness[place])) for place in best if likeness[place]]

    def _nearest(self, place: int, similarity: float) -> Nearest:
        exchange = self._exchanges[place]
        record, source = self._found[exchange]
        return Nearest(record, *exchange, similarity, self._times[exchange], source)

    def _read(self, source: SourceSettings) -> None:
        rows = iter(read_rows(source))
        for row in islice(rows, MOST_RECORDS):
            if isinstance(row, InstructionRecord):
                for exchange in exchanges_of(row):
                    self._found.setdefault(exchange, (row, source))
                    self._times[exchange] += 1
        if next(rows, None) is not None:
            self.notes.append(f"of {source.data} the first {MOST_RECORDS:,} records were read")


class TeacherWords:
    """Finds the proxies that training records were written from, in the annotations beside the
    records' images; only proxies with the records' fingerprints are shown.
    """

    def __init__(self, nearest: Sequence[Nearest]) -> None:
        self.notes: list[str] = []
        self._lookups: dict[str, ProxyLookup] = {}
        wanted: dict[str, set[str]] = {}
        for one in nearest:
            if one.record.provenance is not None and one.source.images:
                wanted.setdefault(one.source.images, set()).update(one.record.images)
        for images, names in wanted.items():
            folder = Path(images)
            try:
                scenes = [
                    scene
                    for scene in stream_scenes(folder.parent, None, [], captionless=True)
                    if scene.image in names
                ]
            except LaternaError as error:
                self.notes.append(f"what the teacher saw is not known: {error}")
                continue
            self._lookups[images] = ProxyLookup(scenes, folder)

    def proxy(self, one: Nearest) -> Proxy | None:
        """Return the words that a record's teacher saw; None where they are not known."""
        lookup = self._lookups.get(one.source.images)
        return lookup(one.record) if lookup and one.record.provenance else None


def _words(question: str, answer: str) -> set[str]:
    return {word for word in words_of(f"{question} {answer}") if word.isalnum()}
