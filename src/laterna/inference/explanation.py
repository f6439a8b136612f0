"""What is told of an answer: the image as the model saw it, and what in it the answer hangs on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image

from laterna.records import Record, Turn

TokenWords = tuple[tuple[str, float], ...]
"""The likeliest words of a token, each with its score."""
Map = tuple[tuple[float, ...], ...]
"""A value for each cell of the grid: rows of columns."""
CellWords = tuple[tuple[TokenWords, ...], ...]
"""For each cell of the grid the likeliest words, each with its score."""
MAX_NEW_TOKENS = 64
"""Longest answer that is written to be explained, in tokens."""


class Asked(NamedTuple):
    """What is to be explained, and how."""

    turns: Sequence[Turn]
    """The chat; its last turn is a user's."""
    images: Sequence[Image.Image]
    answer: str | None = None
    """None: the one that the model gives, greedily."""
    which: int = 0
    """Which of the images, from 0."""
    methods: Sequence[str] = ("occlusion",)
    window: int = 1
    """Side of the squares that are covered, in cells: 3 needs a ninth of the time of 1."""
    max_new_tokens: int = MAX_NEW_TOKENS


class View(Record):
    """One square that the encoder was given: the image itself, or a tile of it."""

    image: Image.Image
    rows: int
    """Of its grid."""
    columns: int


class ShownImage(Record):
    """An image as the model saw it."""

    index: int
    """Which of the chat's images it is, from 0."""
    views: tuple[View, ...]
    """The whole image first; then its tiles, row by row, where it was tiled."""
    tokens: int
    """That it takes in the row."""


class TokenShown(Record):
    """A token of the answer."""

    text: str
    logprob: float


class Occlusion(Record):
    """By how much the log probability of the answer drops while a window of cells is covered.

    Each cell has its window's drop, in nats; below 0 the answer became likelier.
    """

    window: int
    """Side of the squares that were covered, in cells."""
    overall: Map
    tokens: tuple[Map, ...]
    """A map for each token of the answer; they add up to `overall`."""


class Attention(Record):
    """Attention to each cell's token, divided by that of a question about everything."""

    overall: Map
    """Mean of the answer's tokens."""
    tokens: tuple[Map, ...]
    note: str
    """How it was computed."""


class Words(Record):
    """The words nearest to each cell's token, with their cosines."""

    words: CellWords


class Lens(Record):
    """What the language model would write at each cell's token, layer by layer (logit lens)."""

    layers: tuple[CellWords, ...]
    """Words with their probabilities, behind the first layer, the second, and so on."""


class Explanation(Record):
    """An answer with what it hangs on; what was not asked for is None."""

    prompt: str
    """The text that the model read, with the image mark."""
    prompt_tokens: int
    answer: str
    tokens: tuple[TokenShown, ...]
    image: ShownImage
    occlusion: Occlusion | None = None
    attention: Attention | None = None
    words: Words | None = None
    lens: Lens | None = None
