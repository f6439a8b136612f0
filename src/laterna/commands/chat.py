"""`laterna chat`: talk with a checkpoint in the terminal; `laterna explain`: what it looked at."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
from tyro.conf import Positional, UseAppendAction, arg

from laterna.choices import KeysOf
from laterna.commands.base import Command, Reads, Where, Writes
from laterna.recipe import Amount, Count, Seed, Share
from laterna.records import DEFAULT_IMAGE_TOKEN

if TYPE_CHECKING:
    from laterna.inference.explanation import Asked

MethodName = Annotated[str, KeysOf("laterna.inference.explain:METHODS")]


class Chat(Command, frozen=True, kw_only=True):
    """Talk with an assistant about images in the terminal. `/help` lists what can be typed."""

    model: Positional[str]
    """A Laterna checkpoint, a llava-hf or original LLaVA folder, or a hub id of one."""
    image: UseAppendAction[tuple[Path, ...]] = ()
    """Image to talk about; give it again for another. Default: none."""
    prompt: str | None = None
    """Answer this alone and end. Default: a conversation."""
    max_new_tokens: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] | None = None
    """Longest answer, in tokens. Default: 256, or as many as there is room for."""
    temperature: Amount = 0.0
    """Sampling temperature. 0: greedy, always the likeliest token."""
    top_p: Share = 1.0
    """Nucleus sampling: draw from the likeliest tokens that together have this probability."""
    seed: Seed | None = None
    """Random seed for sampling. Default: a new one each time."""
    where: Annotated[Where, arg(name="")] = Where()

    def reads(self) -> Iterator[Reads]:
        """Name the checkpoint and the images."""
        yield Reads(Path(self.model), kind="maybe")
        yield from (Reads(image, kind="file") for image in self.image)

    def run(self) -> str:
        """Call `laterna.serving.terminal`."""
        from laterna.inference.explain import explain, shown_methods
        from laterna.report.explanation import write_explanation
        from laterna.serving.terminal import Chat as Terminal

        assistant = self.where.load(self.model)

        def show(asked: Asked, path: Path) -> None:
            methods = shown_methods(assistant.model.fusion)
            found = explain(assistant.engine, asked._replace(methods=methods))
            question = asked.turns[-1].text.replace(DEFAULT_IMAGE_TOKEN, "").strip()
            write_explanation(path, question, found)

        terminal = Terminal(
            assistant.stream_prompt,
            self.image,
            settings={
                "max_new_tokens": self.max_new_tokens,
                "temperature": self.temperature,
                "top_p": self.top_p,
                "seed": self.seed,
            },
            explain=show,
        )
        if self.prompt is None:
            terminal.hold()
        else:
            terminal.answer(self.prompt)
        return ""


class Explain(Command, frozen=True, kw_only=True):
    """Show which parts of an image an answer depends on, as a page or as one image."""

    model: Positional[str]
    """A Laterna checkpoint, a llava-hf or original LLaVA folder, or a hub id of one."""
    image: Path
    """Image to ask about."""
    question: str
    """What is asked."""
    answer: str | None = None
    """Answer to explain. Default: the one that the model gives."""
    methods: tuple[MethodName, ...] = ()
    """`occlusion`: parts of the image are covered in turn. `attention`: where the answer's tokens
    look, relative to a general question. `words`: those nearest to each image token. `lens`: the
    same behind each layer. Default: the first three, or those of them that the model has."""
    window: Count = 1
    """Side of the squares that occlusion covers, in patches. 3 takes a ninth of the time of 1."""
    out: Path = Path("explanation.html")
    """Page (.html), or image (.png) of the first map, to write."""
    where: Annotated[Where, arg(name="")] = Where()

    def reads(self) -> Iterator[Reads]:
        """Name the checkpoint and the image."""
        from laterna.report.explanation import require_ending

        require_ending(self.out)
        yield Reads(Path(self.model), kind="maybe")
        yield Reads(self.image, kind="file")

    def writes(self) -> Iterator[Writes]:
        """Name the page."""
        yield Writes(self.out)

    def run(self) -> str:
        """Call `Assistant.explain` and `laterna.report`."""
        from laterna.inference.explain import shown_methods
        from laterna.report.explanation import write_explanation

        assistant = self.where.load(self.model)
        methods = self.methods or shown_methods(assistant.model.fusion)
        found = assistant.explain(
            self.image, self.question, self.answer, methods, window=self.window
        )
        write_explanation(self.out, self.question, found)
        return f"{found.answer}\nmade {self.out}"
