"""A tokenised record in the terminal: which tokens are learned, which are only read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Literal

from rich.text import Text

from laterna.records import PICTURE_TOKEN, Sample

Part = Literal["picture", "target", "prompt"]

STYLES: dict[Part, tuple[str, str]] = {
    "picture": ("bold magenta", "bold magenta"),
    "target": ("green", "bold bright_green"),
    "prompt": ("dim", "default"),
}
"""The styles of a part's tokens, taken in turn so that neighbours can be told apart."""
TARGET_MARKS = ("⟦", "⟧")
"""Stand around learned tokens, for terminals and files without colours."""
PICTURE_SIGN = "▣"


def token_view(sample: Sample, decode: Callable[[list[int]], str]) -> Text:
    """Return the sample's text, styled by part, after a line that counts the tokens of each.

    `decode` turns ids into text as it stands, special tokens included. A token that is only some
    of the bytes of a character is shown with the tokens that complete it.
    """
    parts = [
        _part(token, target) for token, target in zip(sample.input_ids, sample.targets, strict=True)
    ]
    named: tuple[tuple[Part, str], ...] = (
        ("target", "learned"),
        ("prompt", "read"),
        ("picture", "picture"),
    )
    counts = ", ".join(f"{parts.count(part)} {name}" for part, name in named)
    view = Text()
    view.append(f"{sample.id}: {len(parts)} tokens, {counts}\n", style="bold")
    for part, run in groupby(zip(sample.input_ids, parts, strict=True), key=lambda pair: pair[1]):
        ids = [token for token, _ in run]
        pieces = [PICTURE_SIGN] * len(ids) if part == "picture" else _pieces(ids, decode)
        if part == "target":
            pieces = [TARGET_MARKS[0], *pieces, TARGET_MARKS[1]]
        for number, piece in enumerate(pieces):
            view.append(piece, style=STYLES[part][number % 2])
    return view


def _part(token: int, target: bool) -> Part:
    if token == PICTURE_TOKEN:
        return "picture"
    return "target" if target else "prompt"


def _pieces(ids: Sequence[int], decode: Callable[[list[int]], str]) -> list[str]:
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
