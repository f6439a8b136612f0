"""`laterna chat`: talk with a checkpoint in the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated

import msgspec
from tyro.conf import Positional, arg

from laterna.commands.base import Command, Reads, Where
from laterna.recipe import Amount, Seed, Share


class Chat(Command, frozen=True, kw_only=True):
    """Talk with an assistant about an image in the terminal."""

    model: Positional[str]
    """A Laterna checkpoint, a llava-hf or original LLaVA folder, or a hub id of one."""
    image: Path | None = None
    """Image to talk about; default: none."""
    prompt: str | None = None
    """Answer this alone and end; default: a conversation."""
    max_new_tokens: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 256
    """Longest answer, in tokens."""
    temperature: Amount = 0.0
    """Sampling temperature. 0: greedy, always the likeliest token."""
    top_p: Share = 1.0
    """Nucleus sampling: draw from the likeliest tokens that together have this probability."""
    seed: Seed | None = None
    """Random seed for sampling. Default: a new one each time."""
    where: Annotated[Where, arg(name="")] = Where()

    def reads(self) -> Iterator[Reads]:
        """Name the checkpoint and the image."""
        yield Reads(Path(self.model), kind="maybe")
        if self.image is not None:
            yield Reads(self.image, kind="file")

    def run(self) -> str:
        """Call `laterna.serving.terminal`."""
        from laterna.serving.terminal import chat

        stream = partial(
            self.where.load(self.model).stream_prompt,
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.seed,
        )
        chat(stream, self.image, self.prompt)
        return ""
