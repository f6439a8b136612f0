"""Records token by token, in the terminal and on a page: what is learned, read, and an image."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Literal, NamedTuple

from rich.text import Text

from laterna.records import IMAGE_TOKEN_INDEX, Sample
from laterna.report.parts import write_page

Part = Literal["image", "target", "prompt"]
Decode = Callable[[list[int]], str]
"""Turns ids into text as it stands, special tokens included."""

STYLES: dict[Part, tuple[str, str]] = {
    "image": ("bold magenta", "bold magenta"),
    "target": ("green", "bold bright_green"),
    "prompt": ("dim", "default"),
}
"""The styles of a part's tokens, alternating so that neighbors can be told apart."""
NAMES: dict[Part, str] = {"target": "learned", "prompt": "read", "image": "image"}
"""What the parts are called where they are counted."""
TARGET_MARKS = ("⟦", "⟧")
"""Stand around learned tokens, for terminals and files without colours."""
IMAGE_SIGN = "▣"


class TokenRun(NamedTuple):
    """Successive tokens of one part."""

    part: Part
    pieces: list[str]
    """The text of each."""


def token_runs(sample: Sample, decode: Decode) -> list[TokenRun]:
    """Return the sample's text, cut at its tokens and where another part begins.

    A token that is only some of the bytes of a character is shown with those that complete it.
    """
    runs = []
    pairs = zip(sample.input_ids, _parts(sample), strict=True)
    for part, run in groupby(pairs, key=lambda pair: pair[1]):
        ids = [token for token, _ in run]
        pieces = [IMAGE_SIGN] * len(ids) if part == "image" else _pieces(ids, decode)
        runs.append(TokenRun(part, pieces))
    return runs


def token_counts(sample: Sample) -> str:
    """Return a line that names the sample and counts the tokens of each part."""
    parts = _parts(sample)
    counts = ", ".join(f"{parts.count(part)} {name}" for part, name in NAMES.items())
    return f"{sample.id}: {len(parts)} tokens, {counts}"


def token_view(sample: Sample, decode: Decode) -> Text:
    """Return the sample's text for the terminal, styled by part, after the line of counts."""
    view = Text()
    view.append(f"{token_counts(sample)}\n", style="bold")
    for part, pieces in token_runs(sample, decode):
        marked = [TARGET_MARKS[0], *pieces, TARGET_MARKS[1]] if part == "target" else pieces
        for number, piece in enumerate(marked):
            view.append(piece, style=STYLES[part][number % 2])
    return view


def _parts(sample: Sample) -> list[Part]:
    pairs = zip(sample.input_ids, sample.targets, strict=True)
    return [_part(token, target) for token, target in pairs]


def _part(token: int, target: bool) -> Part:
    if token == IMAGE_TOKEN_INDEX:
        return "image"
    return "target" if target else "prompt"


def _pieces(ids: Sequence[int], decode: Decode) -> list[str]:
    """Return the text of each token; of tokens that share a character, the text of all at once."""
    pieces: list[str] = []
    waiting: list[int] = []
    for token in ids:
        waiting.append(token)
        text = decode(waiting)
        if not text.endswith("\N{REPLACEMENT CHARACTER}"):
            pieces.append(text)
            waiting = []
    return [*pieces, decode(waiting)] if waiting else pieces


def write_token_page(path: Path, title: str, samples: Iterable[Sample], decode: Decode) -> None:
    """Write a page with each sample's tokens, in the colours of what is learned and what is not."""
    records = [(token_counts(sample), token_runs(sample, decode)) for sample in samples]
    write_page(path, "tokens.html.jinja", title=title, names=NAMES, records=records)
