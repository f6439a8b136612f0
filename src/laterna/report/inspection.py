"""What is shown of a finished set: one pass over its records, and what its ledger says it cost."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

import msgspec

from laterna.analysis.coverage import CoverageCounter, exchanges_of
from laterna.analysis.proxy_lookup import ProxyLookup
from laterna.data.images.files import ImageFolder, OutsideImageError
from laterna.data.sources import read_rows
from laterna.data.sources.rows import Unreadable
from laterna.errors import LaternaError
from laterna.recipe import SourceSettings
from laterna.records import Finding, InstructionRecord, Reply, Scene, Verdict
from laterna.report.parts import NamedTexts
from laterna.report.synthesis_page import Example, Reason, Specimen, SynthesisContent
from laterna.synthesis.budget import Prices
from laterna.synthesis.builder import Reject
from laterna.synthesis.checks import REASONS, check
from laterna.synthesis.ledger import Ledger
from laterna.synthesis.ledger_rows import Totals
from laterna.synthesis.parsing import Exchange, write_reply
from laterna.synthesis.settings import Spending

EXAMPLES = 3
"""Sentences kept for each reason."""


class Tally:
    """Counts records by the reasons found in them, and keeps the first examples of each."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._records: Counter[str] = Counter()
        self._examples: dict[str, list[Example]] = {}

    def add(self, name: str, findings: Iterable[Finding]) -> None:
        """Count one record or reply; a reason found twice in it counts once."""
        found = {finding.reason: finding for finding in reversed(tuple(findings))}
        for reason in sorted(found):
            self._records[reason] += 1
            kept = self._examples.setdefault(reason, [])
            if len(kept) < EXAMPLES:
                kept.append(Example(record=name, finding=found[reason]))

    def reasons(self) -> tuple[Reason, ...]:
        """Return the reasons, most frequent first."""
        ranked = sorted(self._records.items(), key=lambda item: (-item[1], item[0]))
        return tuple(
            Reason(
                name=name,
                meaning=REASONS.get(name, ""),
                count=count,
                examples=tuple(self._examples[name]),
            )
            for name, count in ranked
        )


class Reservoir:
    """A random sample of the records that are added, in their order (reservoir sampling)."""

    def __init__(self, size: int, seed: int) -> None:
        """Begin with nothing."""
        self._size = size
        self._random = random.Random(seed)
        self._seen = 0
        self._drawn: list[tuple[int, InstructionRecord]] = []

    def add(self, record: InstructionRecord) -> None:
        """Consider a record; each has the same chance in the end."""
        self._seen += 1
        if len(self._drawn) < self._size:
            self._drawn.append((self._seen, record))
            return
        place = self._random.randrange(self._seen)
        if place < self._size:
            self._drawn[place] = (self._seen, record)

    def records(self) -> list[InstructionRecord]:
        """Return the sample."""
        return [record for _, record in sorted(self._drawn, key=lambda drawn: drawn[0])]


def inspect_set(
    source: SourceSettings,
    *,
    scenes: Iterable[Scene] | None = None,
    images: Path | None = None,
    rejects: Path | None = None,
    cost: NamedTexts = (),
    specimens: int = 24,
    seed: int = 0,
) -> SynthesisContent:
    """Read a source of records once, as training does, and return what there is to show of it.

    `scenes` are what the teacher was shown: with them, support is counted and every record is
    checked again. `images` is the folder of the records' images, `rejects` the JSON lines of
    replies that a synthesis did not use, `cost` what it cost. Memory grows with the annotations,
    not with the records. Raises LaternaError for a file that cannot be read.
    """
    proxies = ProxyLookup(scenes or (), images)
    counter, again, sample, checked = CoverageCounter(), Tally(), Reservoir(specimens, seed), 0
    refused: dict[str, tuple[int, str]] = {}
    for record in _records(source, refused):
        counter.add(record, proxies(record) if scenes is not None else None)
        sample.add(record)
        scene = proxies.scene(record)
        verdict = scene and check_again(record, scene)
        if verdict:
            checked += 1
            again.add(record.id, verdict.findings)
    coverage = counter.result()
    unknown = tuple(sorted(proxies.unknown.items()))  # before the specimens count again
    return SynthesisContent(
        title=f"Instructions in {Path(source.data).name}",
        coverage=coverage,
        annotated=scenes is not None,
        unknown_proxies=unknown,
        checked=checked,
        found=again.reasons(),
        rejects=_read_rejects(rejects) if rejects else None,
        cost=cost,
        refused=tuple((reason, *found) for reason, found in sorted(refused.items())),
        specimens=tuple(_specimen(record, proxies, images) for record in sample.records()),
    )


def _records(
    source: SourceSettings, refused: dict[str, tuple[int, str]]
) -> Iterator[InstructionRecord]:
    """Yield the records of a source, and count the rows that are none, with the first message."""
    for row in read_rows(source):
        if isinstance(row, Unreadable):
            number, first = refused.get(row.reason, (0, row.message))
            refused[row.reason] = number + 1, first
        else:
            yield row


def check_again(record: InstructionRecord, scene: Scene) -> Verdict | None:
    """Check a finished record against its scene; None for captions, which no teacher wrote.

    A record without a kind is checked as a conversation: by its contents alone.
    """
    exchanges = [Exchange(question, answer) for question, answer in exchanges_of(record)]
    if record.kind == "caption" or not exchanges:
        return None
    text = exchanges[0].answer if record.kind == "detail" else write_reply(exchanges)
    return check(scene, Reply(text=text, finish_reason="stop"), record.kind or "conversation")


def _specimen(record: InstructionRecord, proxies: ProxyLookup, images: Path | None) -> Specimen:
    scene = proxies.scene(record)
    return Specimen(
        record=record,
        image=image_of(record, images),
        boxes=scene.boxes if scene else (),
        proxy=proxies(record) if scene else None,
        verdict=check_again(record, scene) if scene else None,
    )


def image_of(record: InstructionRecord, images: Path | None) -> Path | None:
    """Return the file of a record's first image, by its whole or its file name."""
    if images is None or not record.images:
        return None
    name = PurePosixPath(record.images[0])
    folder = ImageFolder(images)
    for part in (str(name), name.name):
        with suppress(OutsideImageError, OSError):
            if (found := folder.find(part)).is_file():
                return found
    return None


def _read_rejects(path: Path) -> tuple[Reason, ...]:
    tally = Tally()
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise LaternaError(f"{path}: cannot be read: {error.strerror}") from error
    for number, line in enumerate(lines, start=1):
        try:
            reject = msgspec.json.decode(line, type=Reject)
        except msgspec.MsgspecError as error:
            raise LaternaError(f"{path}: line {number}: not a rejected reply: {error}") from error
        tally.add(reject.id, reject.verdict.findings)
    return tally.reasons()


def read_cost(ledger: Path, spending: Spending) -> NamedTexts:
    """Return the lines of a ledger's cost; raise LaternaError for a file that is no ledger."""
    with Ledger(ledger, create=False) as opened:
        return cost_lines(opened.totals, Prices(spending))


def cost_lines(totals: Iterable[Totals], prices: Prices) -> NamedTexts:
    """Return, for each model that answered, its answers, tokens, time and dollars."""
    lines: list[tuple[str, str]] = []
    for total in totals:
        if not total.answers:
            continue
        spent = prices.spent([total])  # also calls without an answer, which may have been billed
        dollars = "price not known" if spent is None else f"${spent:,.2f}"
        lines.append(
            (
                total.identity.model,
                f"{total.answers:,} answers, {total.usage.prompt_tokens:,} tokens read, "
                f"{total.usage.completion_tokens:,} written, "
                f"{total.seconds / total.answers:.1f} s an answer, {dollars}",
            )
        )
    return tuple(lines)
