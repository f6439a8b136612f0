"""A finished set of instructions, as one HTML file that needs nothing else, and in the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont
from rich.table import Table

from laterna.analysis.coverage import Coverage, exchanges_of
from laterna.analysis.properties import PROPERTIES
from laterna.records import Box, Finding, InstructionRecord, Proxy, Record, Verdict
from laterna.report.drawings import bar_chart, histogram
from laterna.report.parts import NamedTexts, jpeg_uri, share, shrink, write_page

IMAGE_SIDE = 480
"""Longest side, in pixels, of the images inside the page."""
FIRST_WORDS = 16
"""First words of questions that are drawn; the rest is counted."""
PROXY_LINES = 60
"""Lines of a proxy that are in the page; it says how many more there are."""
AT_ONCE = 18
"""Lines of a proxy that are shown before the rest is opened."""
CHANNELS = {
    "caption": "caption",
    "box": "box",
    "ocr": "printed text",
    "lighting": "lighting",
    "colours": "colours",
    "texture": "texture",
}
"""Channel of a proxy line to its name on the page."""
_BOX_COLOURS = ("#e4572e", "#1f5f8b", "#2e8b57", "#8a4fbf", "#b8860b", "#c2185b", "#00838f")
_LABEL_HEIGHT = 14


class Example(Record):
    """A record or reply with one of the reasons found in it."""

    record: str
    """Its id."""
    finding: Finding


class Reason(Record):
    """One reason to reject, how many records or replies have it, and some of them."""

    name: str
    meaning: str
    count: int
    examples: tuple[Example, ...]


class Specimen(Record):
    """One record with all that is known of it, to be read side by side."""

    record: InstructionRecord
    image: Path | None
    boxes: tuple[Box, ...]
    proxy: Proxy | None
    """What its teacher was shown; None where that is not known."""
    verdict: Verdict | None
    """What the checks find in it now; None where there is no scene."""


class SynthesisContent(Record):
    """Everything the page shows."""

    title: str
    coverage: Coverage
    annotated: bool
    """Whether annotations were given, so that support could be counted."""
    unknown_proxies: tuple[tuple[str, int], ...]
    """Why the proxy of a record is not known, and of how many."""
    checked: int
    """Records that were checked again."""
    found: tuple[Reason, ...]
    """What the checks find in the finished records."""
    specimens: tuple[Specimen, ...]
    rejects: tuple[Reason, ...] | None = None
    """What the synthesis did not use; None where its file was not given."""
    refused: tuple[tuple[str, int, str], ...] = ()
    """Why rows are no records, how many, and the message of the first."""
    cost: NamedTexts = ()
    """Requests, tokens and money, as they were counted."""


class _Shown(NamedTuple):
    """A specimen as the template reads it."""

    specimen: Specimen
    uri: str
    """Data URI of the image with its boxes; empty where there is no image."""
    exchanges: list[tuple[str, str]]
    lines: list[tuple[str, str]]
    """Name of the channel and text of the proxy's lines, the empty one left out."""
    more_lines: int
    at_once: int = AT_ONCE


def write_synthesis_page(path: Path, content: SynthesisContent) -> None:
    """Write the page; the same content gives the same bytes.

    Raises LaternaError when a specimen's image cannot be read or the set holds no questions.
    """
    coverage = content.coverage
    lengths = histogram(coverage.answer_words)
    words = coverage.first_words[:FIRST_WORDS]
    write_page(
        path,
        "synthesis.html.jinja",
        content=content,
        coverage=coverage,
        meanings=PROPERTIES,
        lengths=bar_chart("answer lengths", lengths, "words", across=False),
        first_words=bar_chart("first words", words, "questions", across=True),
        other_words=sum(count for _, count in coverage.first_words[FIRST_WORDS:]),
        specimens=[_shown(specimen) for specimen in content.specimens],
    )


def draw_boxes(image: Image.Image, boxes: tuple[Box, ...]) -> None:
    """Draw boxes and their categories on an image, in place, a colour a category.

    Every category is named at least once; a further name that would lie on another is left out,
    since many small boxes would hide under their names.
    """
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=11)
    categories = list(dict.fromkeys(box.category for box in boxes))
    named: set[str] = set()
    labels: list[tuple[float, float, float]] = []
    for box in sorted(boxes, key=lambda one: (one.x1 - one.x2) * (one.y2 - one.y1)):
        colour = _BOX_COLOURS[categories.index(box.category) % len(_BOX_COLOURS)]
        left, top = box.x1 * (image.width - 1), box.y1 * (image.height - 1)
        right, bottom = box.x2 * (image.width - 1), box.y2 * (image.height - 1)
        draw.rectangle((left, top, right, bottom), outline=colour, width=2)
        width = draw.textlength(box.category, font=font) + 4
        # Inside the image even where the box begins at its edge.
        label = (min(left, max(0, image.width - width - 1)), max(0, top - _LABEL_HEIGHT), width)
        if box.category in named and any(_overlap(label, other) for other in labels):
            continue
        named.add(box.category)
        labels.append(label)
        at, over = label[0], label[1]
        draw.rectangle((at, over, at + width, over + _LABEL_HEIGHT), fill=colour)
        draw.text((at + 2, over), box.category, fill="white", font=font)


def _overlap(one: tuple[float, float, float], two: tuple[float, float, float]) -> bool:
    """Tell whether two labels, given by left, top and width, lie on each other."""
    beside = one[0] + one[2] <= two[0] or two[0] + two[2] <= one[0]
    return not beside and abs(one[1] - two[1]) < _LABEL_HEIGHT


def _shown(specimen: Specimen) -> _Shown:
    lines: list[tuple[str, str]] = []
    if specimen.proxy is not None:
        texts = specimen.proxy.text.split("\n")
        lines = [
            (CHANNELS.get(channel, channel), line)
            for channel, line in zip(specimen.proxy.channels, texts, strict=False)
            if channel
        ]
    return _Shown(
        specimen=specimen,
        uri="" if specimen.image is None else _boxed_uri(specimen.image, specimen.boxes),
        exchanges=list(exchanges_of(specimen.record)),
        lines=lines[:PROXY_LINES],
        more_lines=max(0, len(lines) - PROXY_LINES),
    )


def _boxed_uri(path: Path, boxes: tuple[Box, ...]) -> str:
    # Imported here: it brings torch, which counting a set in the terminal does not need.
    from laterna.data.images.opening import load_image

    image = load_image(path)
    shrink(image, IMAGE_SIDE)
    draw_boxes(image, boxes)
    return jpeg_uri(image)


_BAR = 30
"""Longest bar, in characters."""


def kind_table(coverage: Coverage) -> Table:
    """Show the records by kind."""
    table = Table("kind", "records")
    for kind, number in coverage.kinds:
        table.add_row(kind, str(number))
    return table


def coverage_table(coverage: Coverage) -> Table:
    """Show what is asked about, and, where a proxy is known, what it supported."""
    table = Table("property", "questions", "share", "declined")
    if coverage.with_proxy:
        for name in ("supported", "without support", "not judged"):
            table.add_column(name)
    for row in coverage.properties:
        cells = [row.name, str(row.questions), share(row.questions, coverage.questions)]
        cells.append(str(row.declined))
        if coverage.with_proxy:
            cells += [str(row.supported), str(row.unsupported), str(row.unjudged)]
        table.add_row(*cells)
    return table


def length_table(coverage: Coverage) -> Table:
    """Show the answers by their length in words, as bars."""
    table = Table("words", "answers", "")
    bars = histogram(coverage.answer_words, bins=12)
    most = max((number for _, number in bars), default=0)
    for label, number in bars:
        table.add_row(label, str(number), "█" * round(_BAR * number / most))
    return table
