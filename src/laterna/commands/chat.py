"""`laterna chat`: talk with a checkpoint in the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec
from tyro.conf import Positional

from laterna.commands.base import Command, Reads


class Chat(Command, frozen=True, kw_only=True):
    """Talk with a checkpoint about a picture in the terminal."""

    checkpoint: Positional[Path]
    """Checkpoint folder."""
    picture: Path | None = None
    """Picture to talk about; left out: none."""
    prompt: str | None = None
    """Answer this alone and end; left out: a conversation."""
    max_new_tokens: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 256
    """Longest answer, in tokens."""

    def reads(self) -> Iterator[Reads]:
        """Name the checkpoint and the picture."""
        yield Reads(self.checkpoint, kind="folder")
        if self.picture is not None:
            yield Reads(self.picture, kind="file")

    def run(self) -> str:
        """Call `laterna.serving.terminal`."""
        from laterna.model.checkpoint import load_checkpoint
        from laterna.serving.terminal import chat

        chat(load_checkpoint(self.checkpoint), self.picture, self.prompt, self.max_new_tokens)
        return ""
