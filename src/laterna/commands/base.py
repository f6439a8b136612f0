"""What every subcommand is, and what several of them print."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

RUNS = Path("runs")
"""Where commands write unless told otherwise."""
LISTED = 20
"""Left-out records shown one by one; the closing line counts all of them by reason."""


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all commands: the arguments of one step."""

    def run(self) -> str:
        """Do the step and return the closing line, empty where nothing was made."""
        raise NotImplementedError


def show_some(what: str, messages: Sequence[str]) -> None:
    """Print the first messages one a line, and how many more there are."""
    for message in messages[:LISTED]:
        print(f"{what}: {message}")
    if len(messages) > LISTED:
        print(f"{what}: {len(messages) - LISTED} more")
