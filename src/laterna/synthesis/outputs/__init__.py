"""Writes instruction records in the forms that trainers read: one file a form, one line here.

Every writer takes the records one by one, in their order, and keeps `kind` and `provenance`
beside what the form itself has, so that each record can be traced to the words the teacher saw.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from laterna.errors import LaternaError
from laterna.files import write_atomically, write_lines
from laterna.records import InstructionRecord
from laterna.synthesis.outputs.base import Writer
from laterna.synthesis.outputs.llava import write_llava
from laterna.synthesis.outputs.messages import write_messages
from laterna.synthesis.outputs.parquet import write_parquet

OUTPUTS: dict[str, Writer] = {
    "llava": write_llava,
    "jsonl": write_lines,  # our own `InstructionRecord`, one a line: everything is kept as it is
    "parquet": write_parquet,
    "messages": write_messages,
}


def write_records(path: Path, records: Iterable[InstructionRecord], form: str) -> int:
    """Write the records to `path`, whole or not at all, and return how many there were.

    Memory does not grow with their number. Raises LaternaError for an unknown form, one whose
    library is not installed, and a record that the form cannot hold.
    """
    if form not in OUTPUTS:
        raise LaternaError(f"unknown form of output {form!r}; known are: {', '.join(OUTPUTS)}")
    with write_atomically(path) as aside:
        return OUTPUTS[form](aside, records)
