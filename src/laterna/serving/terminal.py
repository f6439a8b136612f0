"""A conversation with an assistant in the terminal: one answer, or several turns with streaming."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
from PIL import Image
from rich.console import Console
from rich.markup import escape

from laterna.data.images.opening import load_image
from laterna.errors import LaternaError
from laterna.files import write_atomically
from laterna.inference.explanation import Asked
from laterna.records import DEFAULT_IMAGE_TOKEN, InstructionRecord, Turn

Streamer = Callable[..., Iterator[str]]
"""Writes the assistant's next turn piece by piece, from the turns so far and their images, with
the settings as keywords."""
Explainer = Callable[[Asked, Path], None]
"""Writes what an answer hangs on to a page or image."""
SETTINGS: dict[str, Callable[[str], Any]] = {
    "temperature": float,
    "top_p": float,
    "seed": int,
    "max_new_tokens": int,
}
"""What `/set` knows, and how its values are read."""
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Control characters but tab and newline."""
EXCHANGE = 2
"""Turns of a question and its answer."""


class Conversation:
    """What was said so far, and about which images."""

    def __init__(self, images: Sequence[Path] = ()) -> None:
        self.first = tuple(images)
        """Given at the start: a conversation that is begun anew is about them again."""
        self.begin()

    def begin(self) -> None:
        """Forget what was said, and the images that came later."""
        self.turns: list[Turn] = []
        self.images: list[Image.Image] = []
        self.paths: list[Path] = []
        self.waiting: list[tuple[Path, Image.Image]] = []
        """Images that go with the next question."""
        for path in self.first:
            self.show(path)

    def show(self, path: Path) -> None:
        """Let an image go with the next question. Raises LaternaError when it cannot be read."""
        self.waiting.append((path, load_image(path)))

    def ask(self, text: str) -> None:
        """Add the user's words, behind a mark for each image that waits.

        Raises LaternaError when the words themselves hold the mark.
        """
        if DEFAULT_IMAGE_TOKEN in text:
            raise LaternaError(
                f"{DEFAULT_IMAGE_TOKEN} stands for an image and cannot be typed; "
                "give an image by --image, or by /image PATH in a conversation"
            )
        marks = f"{DEFAULT_IMAGE_TOKEN}\n" * len(self.waiting)
        self.turns.append(Turn(role="user", text=marks + text))
        self.paths += [path for path, _ in self.waiting]
        self.images += [image for _, image in self.waiting]
        self.waiting = []

    def undo(self) -> str:
        """Take the last question back, with its answer if it has one; return its words.

        Its images wait for the next question. Raises LaternaError when nothing was asked.
        """
        asked = [at for at, turn in enumerate(self.turns) if turn.role == "user"]
        if not asked:
            raise LaternaError("nothing was asked yet")
        question = self.turns[asked[-1]].text
        del self.turns[asked[-1] :]
        count = question.count(DEFAULT_IMAGE_TOKEN)
        kept = len(self.images) - count
        back = list(zip(self.paths[kept:], self.images[kept:], strict=True))
        self.waiting = back + self.waiting
        del self.paths[kept:], self.images[kept:]
        return question.replace(f"{DEFAULT_IMAGE_TOKEN}\n", "")

    def markdown(self) -> str:
        """Return what was said as Markdown, with the images by their paths."""
        left = iter(self.paths)
        blocks = []
        for turn in self.turns:
            text = turn.text
            while turn.role == "user" and DEFAULT_IMAGE_TOKEN in text:
                text = text.replace(f"{DEFAULT_IMAGE_TOKEN}\n", f"![image](<{next(left)}>)\n\n", 1)
            blocks.append(f"**{'You' if turn.role == 'user' else 'Assistant'}:** {text}\n")
        return "\n".join(blocks)

    def record(self, name: str) -> InstructionRecord:
        """Return what was said as a record that can be trained on."""
        turns = [
            msgspec.structs.replace(turn, loss=turn.role == "assistant") for turn in self.turns
        ]
        return InstructionRecord(id=name, images=tuple(map(str, self.paths)), turns=tuple(turns))


class Chat:
    """Holds a conversation: reads what is typed, answers, and carries out commands."""

    def __init__(
        self,
        stream: Streamer,
        images: Sequence[Path] = (),
        *,
        settings: dict[str, Any] | None = None,
        explain: Explainer | None = None,
        console: Console | None = None,
    ) -> None:
        """Raise LaternaError when an image cannot be read."""
        self.console = console or Console(highlight=False)
        self.settings = dict(settings or {})
        self.conversation = Conversation(images)
        self._stream, self._explain = stream, explain
        self._again = 0
        self._own: set[Path] = set()

    def answer(self, prompt: str) -> None:
        """Print the answer to one question and nothing else."""
        talk = self.conversation
        talk.ask(prompt)
        answer = "".join(self._stream(talk.turns, talk.images, **self.settings))
        self._say(answer.strip() + "\n")

    def hold(self) -> None:
        """Read standard input until /quit or its end (Ctrl-D); Ctrl-C stops an answer."""
        if sys.stdin.isatty():
            self.console.print("[dim]/help lists the commands; Ctrl-D ends.[/dim]")
        while True:
            try:
                line = self._read()
            except EOFError:
                break
            except KeyboardInterrupt:
                self.console.print("\n[dim]/quit or Ctrl-D ends the conversation.[/dim]")
                continue
            try:
                if line == "/quit":
                    break
                self._take(line)
            except LaternaError as error:
                self.console.print(f"[red]{escape(str(error))}[/red]", soft_wrap=True)
            except KeyboardInterrupt:
                self.console.print("\n[dim]Stopped.[/dim]")
        if sys.stdin.isatty():
            self.console.print("Goodbye.")

    def _read(self) -> str:
        if not sys.stdin.isatty():
            return input().strip()
        with suppress(ImportError):  # line editing and history, where Python has them
            import readline  # noqa: F401
        return input("you: ").strip()

    def _take(self, line: str) -> None:
        if not line.startswith("/"):
            if line:
                self._again = 0
                self._reply(line)
            return
        name, _, argument = line.partition(" ")
        if name not in COMMANDS:
            raise LaternaError(f"{name}: no such command; /help lists them")
        COMMANDS[name][1](self, argument.strip())

    def _reply(self, question: str) -> None:
        """Answer; what was stopped stays as far as it was written, an error takes all back."""
        talk = self.conversation
        talk.ask(question)
        named = sys.stdin.isatty()
        if named:
            self.console.print("[bold]assistant:[/bold] ", end="")
        pieces: list[str] = []
        settings = self.settings
        if self._again and settings.get("seed") is not None:  # else the same would be drawn
            settings = {**settings, "seed": settings["seed"] + self._again}
        stream: Iterator[str] = iter(())
        try:
            stream = self._stream(talk.turns, talk.images, **settings)
            for piece in stream:
                text = piece if pieces else piece.lstrip()
                if text:
                    pieces.append(text)
                    self._say(text)
        except KeyboardInterrupt:
            if not pieces:
                talk.undo()
                raise
            self._say(" (stopped)")
        except BaseException:
            talk.undo()
            if named or pieces:
                self._say("\n")
            raise
        finally:
            getattr(stream, "close", lambda: None)()
        self._say("\n")
        talk.turns.append(Turn(role="assistant", text="".join(pieces).strip()))

    def _say(self, text: str) -> None:
        """Write the assistant's words as they are: markup in them is not ours to interpret.

        Control characters are shown as such and not obeyed: they could do anything to a terminal.
        """
        text = CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)
        self.console.print(text, end="", markup=False, highlight=False, emoji=False, soft_wrap=True)
        self.console.file.flush()

    def _tell(self, text: str) -> None:
        self.console.print(escape(text), style="dim", soft_wrap=True)

    # --- commands -------------------------------------------------------------------------------

    def show_image(self, argument: str) -> None:
        """Let an image go with the next question."""
        path = Path(_needed(argument, "/image PATH")).expanduser()
        self.conversation.show(path)
        self._tell(f"{path} goes with your next question.")

    def reset(self, _: str) -> None:
        """Begin anew."""
        self.conversation.begin()
        self._tell(f"A new conversation, with {len(self.conversation.waiting)} images.")

    def undo(self, _: str) -> None:
        """Take the last question back."""
        self._tell(f"Taken back: {self.conversation.undo()}")

    def regenerate(self, _: str) -> None:
        """Answer the last question again."""
        talk = self.conversation
        later, talk.waiting = talk.waiting, []
        try:
            question = talk.undo()
            self._again += 1
            self._reply(question)
        finally:
            talk.waiting += later

    def set(self, argument: str) -> None:
        """Change a setting, or show all."""
        name, _, value = argument.partition(" ")
        if name:
            if name not in SETTINGS:
                raise LaternaError(f"{name}: no such setting; use one of {', '.join(SETTINGS)}")
            try:
                self.settings[name] = SETTINGS[name](value.strip())
            except ValueError as error:
                raise LaternaError(f"/set {name}: {value.strip()!r} is no number") from error
        self._tell(", ".join(f"{one} = {self.settings.get(one)}" for one in SETTINGS))

    def save(self, argument: str) -> None:
        """Write the conversation to a file."""
        path = Path(_needed(argument, "/save FILE")).expanduser()
        if path.suffix not in (".md", ".jsonl"):
            raise LaternaError(f"{path}: give a file that ends in .md or .jsonl")
        if not self.conversation.turns:
            raise LaternaError("nothing was said yet, so there is nothing to save")
        if not self._may_write(path):
            return
        if path.suffix == ".md":
            content = self.conversation.markdown().encode()
        else:
            content = msgspec.json.encode(self.conversation.record(path.stem)) + b"\n"
        with write_atomically(path) as aside:
            aside.write_bytes(content)
        self._own.add(path.resolve())
        self._tell(f"Saved {path}.")

    def explain(self, argument: str) -> None:
        """Write what the last answer hangs on to a page."""
        talk = self.conversation
        if self._explain is None or len(talk.turns) < EXCHANGE:
            raise LaternaError("there is no answer to explain yet")
        if not talk.images:
            raise LaternaError("there is no image in this chat, so there is nothing to explain")
        path = Path(argument).expanduser() if argument else _free("explanation", ".html")
        if not self._may_write(path):
            return
        asked = Asked(talk.turns[:-1], talk.images, talk.turns[-1].text, len(talk.images) - 1, ())
        self._explain(asked, path)
        self._own.add(path.resolve())
        self._tell(f"Made {path}: what the last answer hangs on, in the last image.")

    def help(self, _: str) -> None:
        """List the commands."""
        for name, (arguments, command) in COMMANDS.items():
            text = (command.__doc__ or "").strip()
            self._tell(f"{name} {arguments}".ljust(22) + text)
        self._tell("/quit".ljust(22) + "End; so does Ctrl-D. Ctrl-C stops an answer.")

    def _may_write(self, path: Path) -> bool:
        """Ask before a file is replaced that this conversation did not make."""
        if not path.exists() or path.resolve() in self._own:
            return True
        if not sys.stdin.isatty():
            raise LaternaError(f"{path}: there is such a file already; give another name")
        return input(f"{path} is there already. Replace it? [y/N] ").strip().lower() in ("y", "yes")


COMMANDS: dict[str, tuple[str, Callable[[Chat, str], None]]] = {
    "/image": ("PATH", Chat.show_image),
    "/undo": ("", Chat.undo),
    "/regenerate": ("", Chat.regenerate),
    "/reset": ("", Chat.reset),
    "/set": ("[NAME VALUE]", Chat.set),
    "/save": ("FILE", Chat.save),
    "/explain": ("[FILE]", Chat.explain),
    "/help": ("", Chat.help),
}
"""Name of a command to its arguments and what does it."""


def _needed(argument: str, usage: str) -> str:
    if not argument:
        raise LaternaError(f"use {usage}")
    return argument


def _free(name: str, ending: str) -> Path:
    """Return the first of name-1, name-2, … that is not there."""
    number = 1
    while Path(f"{name}-{number}{ending}").exists():
        number += 1
    return Path(f"{name}-{number}{ending}")
