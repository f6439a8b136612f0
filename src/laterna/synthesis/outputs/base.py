"""What every writer shares."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from laterna.errors import LaternaError
from laterna.records import InstructionRecord

Writer = Callable[[Path, Iterable[InstructionRecord]], int]
"""Writes records to a new file, one by one in their order, and returns how many."""


def require_usual_loss(record: InstructionRecord, form: str) -> None:
    """Raise LaternaError unless exactly the assistant's turns carry loss: all the form can say."""
    for number, turn in enumerate(record.turns, start=1):
        if turn.loss != (turn.role == "assistant"):
            raise LaternaError(
                f"record {record.id}: turn {number} ({turn.role}) has loss {turn.loss}, which the "
                f"form {form} cannot say; write the form jsonl or parquet"
            )
