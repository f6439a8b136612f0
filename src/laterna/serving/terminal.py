"""A conversation with an assistant in the terminal: one answer, or several turns with streaming."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.markup import escape

from laterna.data.images.opening import load_image
from laterna.errors import LaternaError
from laterna.records import DEFAULT_IMAGE_TOKEN, Turn

COMMANDS = (
    "Commands: /image PATH (new image, new conversation), /reset (forget what was said), /quit"
)


Streamer = Callable[[Sequence[Turn], Sequence[Image.Image]], Iterator[str]]
"""Writes the assistant's next turn piece by piece, from the turns so far and their images."""


class Conversation:
    """What was said so far, about which image."""

    def __init__(self, image: Image.Image | None = None) -> None:
        self.images = [image] if image is not None else []
        self.turns: list[Turn] = []

    def with_question(self, text: str) -> list[Turn]:
        """Return the turns with the user's next words; the first turn carries the image's mark.

        Raises LaternaError when the words themselves hold the mark.
        """
        if DEFAULT_IMAGE_TOKEN in text:
            raise LaternaError(
                f"{DEFAULT_IMAGE_TOKEN} stands for an image and cannot be typed; "
                "give an image by --image, or by /image PATH in a conversation"
            )
        mark = f"{DEFAULT_IMAGE_TOKEN}\n" * len(self.images) if not self.turns else ""
        return [*self.turns, Turn(role="user", text=mark + text)]


def chat(
    stream: Streamer,
    image: Path | None,
    prompt: str | None,
    *,
    console: Console | None = None,
) -> None:
    """Print the answer to `prompt` and nothing else; without a prompt, hold a conversation.

    A conversation reads standard input until /quit, its end (Ctrl-D) or Ctrl-C. Raises
    LaternaError when the image given at the start cannot be read.
    """
    console = console or Console(highlight=False)
    conversation = Conversation(load_image(image) if image is not None else None)
    if prompt is not None:
        turns = conversation.with_question(prompt)
        answer = "".join(stream(turns, conversation.images))
        _say(console, answer.strip() + "\n")
        return
    console.print(escape(COMMANDS), style="dim", soft_wrap=True)
    try:
        _converse(conversation, stream, console)
    except (EOFError, KeyboardInterrupt):
        console.print("\nGoodbye.")


def _converse(
    conversation: Conversation,
    stream: Streamer,
    console: Console,
) -> None:
    """Take turns until /quit; the end of the input and Ctrl-C come out as their exceptions."""
    while True:
        line = console.input("[bold]you:[/bold] ").strip()
        try:
            if line == "/quit":
                console.print("Goodbye.")
                return
            if line.startswith("/"):
                conversation = _command(line, conversation, console)
            elif line:
                turns = conversation.with_question(line)
                console.print("[bold]assistant:[/bold] ", end="")
                pieces = []
                for piece in stream(turns, conversation.images):
                    pieces.append(piece)
                    _say(console, piece)
                _say(console, "\n")
                # Only a finished exchange is remembered, so an error leaves no dangling question.
                answer = Turn(role="assistant", text="".join(pieces).strip())
                conversation.turns = [*turns, answer]
        except LaternaError as error:
            console.print(f"[red]{escape(str(error))}[/red]", soft_wrap=True)


def _command(line: str, conversation: Conversation, console: Console) -> Conversation:
    """Carry out /image or /reset and return the conversation that goes on from there."""
    name, _, argument = line.partition(" ")
    if name == "/reset":
        console.print("A new conversation, about the same image.")
        return Conversation(*conversation.images)
    if name == "/image" and argument.strip():
        image = load_image(Path(argument.strip()).expanduser())
        console.print(f"A new conversation, about {escape(argument.strip())}.", soft_wrap=True)
        return Conversation(image)
    raise LaternaError(f"{line}: not a command. {COMMANDS}")


def _say(console: Console, text: str) -> None:
    """Write the assistant's words as they are: markup in them is not ours to interpret."""
    console.print(text, end="", markup=False, highlight=False, emoji=False, soft_wrap=True)
    console.file.flush()
