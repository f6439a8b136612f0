"""The `messages` form of Hugging Face's processors and trainers, one chat a line.

    {"id", "messages": [{"role", "content": [{"type": "image"}, {"type": "text", "text"}]}],
     "images": [file name], "kind", "provenance"}

Templates of that form set an image apart themselves, so one line end beside an image mark
belongs to the mark and is not written as text.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from laterna.errors import LaternaError
from laterna.files import write_lines
from laterna.records import DEFAULT_IMAGE_TOKEN, InstructionRecord, Turn
from laterna.synthesis.outputs.base import require_usual_loss


def write_messages(path: Path, records: Iterable[InstructionRecord]) -> int:
    """Write one chat a line, as `datasets.load_dataset("json", …)` reads it."""
    return write_lines(path, map(_row, records))


def _row(record: InstructionRecord) -> dict[str, object]:
    require_usual_loss(record, "messages")
    marks = sum(
        turn.text.count(DEFAULT_IMAGE_TOKEN) for turn in record.turns if turn.role == "user"
    )
    if marks != len(record.images):
        raise LaternaError(
            f"record {record.id}: {marks} {DEFAULT_IMAGE_TOKEN} marks in the user turns, but "
            f"{len(record.images)} images; the numbers must be equal"
        )
    return {
        "id": record.id,
        "messages": [{"role": turn.role, "content": _content(turn)} for turn in record.turns],
        "images": record.images,
        "kind": record.kind,
        "provenance": record.provenance,
    }


def _content(turn: Turn) -> list[dict[str, str]]:
    # an assistant that writes "<image>" shows no image
    pieces = turn.text.split(DEFAULT_IMAGE_TOKEN) if turn.role == "user" else [turn.text]
    content: list[dict[str, str]] = []
    for number, piece in enumerate(pieces):
        text = piece
        if number > 0:
            content.append({"type": "image"})
            text = text.removeprefix("\n")
        if number < len(pieces) - 1:
            text = text.removesuffix("\n")
        if text or len(pieces) == 1:
            content.append({"type": "text", "text": text})
    return content
