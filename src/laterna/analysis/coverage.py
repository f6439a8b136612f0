"""What a finished set asks about, and what of it the teacher could have known: the blind spots.

One pass over the records in bounded memory: only the tables of answer lengths and of first words
grow.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from laterna.analysis.answerability import (
    ProxyEvidence,
    QAPair,
    is_answerable,
    make_pair,
    read_evidence,
)
from laterna.analysis.properties import PROPERTIES, Property, properties_of
from laterna.records import DEFAULT_IMAGE_TOKEN, InstructionRecord, Proxy, Record
from laterna.synthesis.refusal_detection import declines

NO_KIND = "not said"
"""Stands for the kind of records whose source does not say it."""


class PropertyCount(Record):
    """How often one property was asked about, and whether the proxies supported the answers."""

    name: Property
    questions: int
    supported: int
    """Answers that their proxy supported."""
    unsupported: int
    """Answers that it did not: the blind spots."""
    declined: int
    """Answers that decline to say: they need no support."""

    @property
    def unjudged(self) -> int:
        """Answers that no line of a proxy decides, or whose proxy is not known."""
        return self.questions - self.supported - self.unsupported - self.declined


class Coverage(Record):
    """What a set of records asks about.

    A question may ask about several properties, so the shares may add up to more than 1.
    """

    records: int
    questions: int
    properties: tuple[PropertyCount, ...]
    """Every property, in the order of `PROPERTIES`."""
    kinds: tuple[tuple[str, int], ...]
    """Records by kind, most frequent first."""
    with_proxy: int
    """Records whose proxy is known."""
    answer_words: tuple[tuple[int, int], ...]
    """Length of an answer in words, and the number of answers that long; shortest first."""
    first_words: tuple[tuple[str, int], ...]
    """First word of a question in lower case, and its number; most frequent first."""

    def share(self, name: Property) -> float:
        """Return the share of questions that ask about a property, 0..1; 0 without questions."""
        (found,) = (row for row in self.properties if row.name == name)
        return found.questions / self.questions if self.questions else 0.0


class CoverageCounter:
    """Counts records as they pass by."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._asked: Counter[Property] = Counter()
        self._supported: Counter[Property] = Counter()
        self._unsupported: Counter[Property] = Counter()
        self._declined: Counter[Property] = Counter()
        self._kinds: Counter[str] = Counter()
        self._answer_words: Counter[int] = Counter()
        self._first_words: Counter[str] = Counter()
        self._questions = 0
        self._with_proxy = 0

    def add(self, record: InstructionRecord, proxy: Proxy | None = None) -> None:
        """Count a record; with `proxy`, what its teacher was shown, also what that supported."""
        self._kinds[record.kind or NO_KIND] += 1
        evidence = None
        if proxy is not None:
            self._with_proxy += 1
            evidence = read_evidence(proxy)
        for question, answer in exchanges_of(record):
            self._questions += 1
            self._answer_words[len(answer.split())] += 1
            self._first_words[_first_word(question)] += 1
            names = properties_of(question)
            self._asked.update(names)
            if declines(answer):
                self._declined.update(names)
            elif evidence is not None:
                self._judge(evidence, make_pair(question, answer), names)

    def _judge(self, evidence: ProxyEvidence, pair: QAPair, names: Iterable[Property]) -> None:
        """Count whether the proxy supported the answer for each property."""
        for name in names:
            held = is_answerable(evidence, pair, name)
            if held is not None:
                (self._supported if held else self._unsupported)[name] += 1

    def result(self) -> Coverage:
        """Return what was counted so far."""
        return Coverage(
            records=self._kinds.total(),
            questions=self._questions,
            properties=tuple(
                PropertyCount(
                    name=name,
                    questions=self._asked[name],
                    supported=self._supported[name],
                    unsupported=self._unsupported[name],
                    declined=self._declined[name],
                )
                for name in PROPERTIES
            ),
            kinds=_ranked(self._kinds),
            with_proxy=self._with_proxy,
            answer_words=tuple(sorted(self._answer_words.items())),
            first_words=_ranked(self._first_words),
        )


def exchanges_of(record: InstructionRecord) -> Iterator[tuple[str, str]]:
    """Yield each question of a record, without image marks, with the answer that follows it."""
    question = None
    for turn in record.turns:
        if turn.role == "user":
            question = turn.text.replace(DEFAULT_IMAGE_TOKEN, "").strip()
        elif turn.role == "assistant" and question is not None:
            yield question, turn.text.strip()
            question = None


def _first_word(question: str) -> str:
    first = (question.split() or [""])[0].lower()
    return first.strip(".,;:!?\"'()") or "(none)"


def _ranked(counted: Counter[str]) -> tuple[tuple[str, int], ...]:
    """Return the counts, most frequent first, equals in alphabetical order."""
    return tuple(sorted(counted.items(), key=lambda item: (-item[1], item[0])))
