"""The terminal conversation, with piped input and a streamer that stands for the model."""

from __future__ import annotations

import io
import os
import pty
import select
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from laterna.data.sources import read_rows
from laterna.errors import LaternaError
from laterna.inference.assistant import Assistant
from laterna.inference.explanation import Asked
from laterna.inference.generation import Decoding, generate_answers
from laterna.model.vlm import VisionLanguageModel
from laterna.recipe import SourceSettings
from laterna.records import InstructionRecord, Turn
from laterna.serving.terminal import COMMANDS, SETTINGS, Chat


class Echo:
    """Answers "[how many turns, how many images]" in two pieces, and remembers what was asked."""

    def __init__(self) -> None:
        self.asked: list[list[Turn]] = []
        self.sizes: list[list[tuple[int, int]]] = []
        self.settings: list[dict[str, Any]] = []

    def __call__(
        self, turns: Sequence[Turn], images: Sequence[Image.Image], **settings: Any
    ) -> Iterator[str]:
        self.asked.append(list(turns))
        self.sizes.append([image.size for image in images])
        self.settings.append(settings)
        yield f" [{len(turns)} turns,"
        yield f" {len(images)} images]"


class Terminal(io.StringIO):
    """Typed lines as they come from a terminal."""

    def isatty(self) -> bool:
        return True


Streams = Callable[..., Iterator[str]]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "a cat.png"
    Image.new("RGB", (8, 8)).save(path)
    return path


@pytest.fixture
def other(tmp_path: Path) -> Path:
    path = tmp_path / "dog.png"
    Image.new("RGB", (9, 5)).save(path)
    return path


@pytest.fixture
def converse(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    def held(typed: str, streamer: Streams, *images: Path, tty: bool = False, **more: Any) -> str:
        monkeypatch.setattr(sys, "stdin", Terminal(typed) if tty else io.StringIO(typed))
        written = io.StringIO()
        # `input` writes its prompt to standard output, which is of no interest here.
        console = Console(file=written, highlight=False, width=80)
        Chat(streamer, images, console=console, **more).hold()
        return written.getvalue()

    return held


Converse = Callable[..., str]


def test_a_prompt_prints_its_answer_and_nothing_else(
    image: Path, other: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    echo = Echo()
    Chat(echo, [image, other], settings={"seed": 3}).answer("What is it?")
    assert capsys.readouterr() == ("[1 turns, 2 images]\n", "")
    assert echo.asked == [[Turn(role="user", text="<image>\n<image>\nWhat is it?")]]
    assert (echo.sizes, echo.settings) == ([[(8, 8), (9, 5)]], [{"seed": 3}])


def test_without_an_image_there_is_no_mark(capsys: pytest.CaptureFixture[str]) -> None:
    echo = Echo()
    Chat(echo).answer("Hello")
    assert capsys.readouterr().out == "[1 turns, 0 images]\n"
    assert echo.asked == [[Turn(role="user", text="Hello")]]


def test_a_long_answer_is_not_wrapped_and_its_markup_not_interpreted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    answer = "[bold]a[/bold] :smile: " + "word " * 100 + "end"

    def streamer(*_: object) -> Iterator[str]:
        yield from (answer[:4], answer[4:])

    Chat(streamer).answer("Hello")
    assert capsys.readouterr().out == answer + "\n"


def test_control_characters_of_an_answer_are_not_obeyed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def streamer(*_: object, **__: object) -> Iterator[str]:
        yield "a\x1b[2Jb\x07c\nd\x9b"

    Chat(streamer).answer("Hello")
    assert capsys.readouterr().out == "a\ufffd[2Jb\ufffdc\nd\ufffd\n"


SLOW = """
import signal
import time
from laterna.serving.terminal import Chat
def slow(turns, images):
    yield f"answer {len(turns)} "
    for number in range(600):
        yield f"{number} "
        time.sleep(0.1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell runs us behind
Chat(slow).hold()
"""


def test_ctrl_c_at_a_real_terminal_stops_the_answer_alone() -> None:
    child, terminal = pty.fork()
    if not child:
        os.execv(sys.executable, [sys.executable, "-c", SLOW])
    written = b""

    def until(what: bytes) -> None:
        nonlocal written
        while what not in written:
            assert select.select([terminal], [], [], 120)[0], written
            written += os.read(terminal, 4096)
        written = written.partition(what)[2]

    until(b"you: ")
    os.write(terminal, b"one\n")
    until(b"answer 1 0 ")
    os.write(terminal, b"\x03")
    until(b"(stopped)")
    os.write(terminal, b"two\n")
    until(b"answer 3 0 ")
    os.write(terminal, b"\x03")
    until(b"(stopped)")
    os.write(terminal, b"/quit\n")
    until(b"Goodbye.")
    assert os.waitpid(child, 0)[1] == 0
    os.close(terminal)


def test_from_a_pipe_there_are_the_answers_alone(converse: Converse, image: Path) -> None:
    echo = Echo()
    written = converse("one\n\ntwo\n/quit\nthree\n", echo, image)
    assert written == "[1 turns, 1 images]\n[3 turns, 1 images]\n"
    assert echo.asked[1] == [
        Turn(role="user", text="<image>\none"),
        Turn(role="assistant", text="[1 turns, 1 images]"),
        Turn(role="user", text="two"),
    ]
    assert len(echo.asked) == 2
    assert converse("", Echo()) == ""


def test_at_a_terminal_it_says_how_to_go_on_and_goodbye(converse: Converse) -> None:
    written = converse("one\n", Echo(), tty=True)
    assert written.splitlines()[0] == "/help lists the commands; Ctrl-D ends."
    assert "assistant: [1 turns, 0 images]\n" in written
    assert written.endswith("Goodbye.\n")


def test_an_interrupt_ends_the_answer_and_not_the_chat(converse: Converse) -> None:
    class Interrupted(Echo):
        closed = 0

        def __call__(self, turns: Sequence[Turn], *rest: Any, **more: Any) -> Iterator[str]:
            self.asked.append(list(turns))
            try:
                if len(self.asked) < 3:
                    yield from ["half an ", "answer"][: 2 - len(self.asked)]
                    raise KeyboardInterrupt
                yield "whole"
            finally:
                self.closed += 1

    echo = Interrupted()
    written = converse("one\ntwo\nthree\n", echo)
    assert written == "half an  (stopped)\n\nStopped.\nwhole\n"
    # What was said stays said; of what had no word yet nothing stays.
    assert [turn.text for turn in echo.asked[2]] == ["one", "half an", "three"]
    assert echo.closed == 3


def test_an_interrupt_at_the_prompt_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, converse: Converse
) -> None:
    lines = iter([KeyboardInterrupt(), "one", EOFError()])

    def typed(_: str = "") -> str:
        line = next(lines)
        if isinstance(line, BaseException):
            raise line
        return line

    monkeypatch.setattr("builtins.input", typed)
    written = converse("", Echo())
    assert "/quit or Ctrl-D ends the conversation" in written
    assert "[1 turns, 0 images]" in written


def test_reset_keeps_the_first_images_and_forgets_the_turns(
    converse: Converse, image: Path, other: Path
) -> None:
    echo = Echo()
    converse(f"one\n/image {other}\ntwo\n/reset\nthree\n", echo, image)
    assert echo.sizes == [[(8, 8)], [(8, 8), (9, 5)], [(8, 8)]]
    assert echo.asked[2] == [Turn(role="user", text="<image>\nthree")]


def test_an_image_goes_with_the_next_question(converse: Converse, image: Path, other: Path) -> None:
    echo = Echo()
    converse(f"one\n/image {image}\n/image {other}\ntwo\nthree\n", echo)
    assert [turn.text for turn in echo.asked[2] if turn.role == "user"] == [
        "one",
        "<image>\n<image>\ntwo",
        "three",
    ]
    assert echo.sizes == [[], [(8, 8), (9, 5)], [(8, 8), (9, 5)]]


def test_undo_takes_a_question_back_with_its_images(
    converse: Converse, image: Path, other: Path
) -> None:
    echo = Echo()
    written = converse(
        f"one\n/image {other}\ntwo\n/undo\nthree\n/undo\n/undo\n/undo\n", echo, image
    )
    assert [turn.text for turn in echo.asked[2]] == [
        "<image>\none",
        "[1 turns, 1 images]",
        "<image>\nthree",
    ]
    assert echo.sizes[2] == [(8, 8), (9, 5)]
    assert "Taken back: two" in written
    assert written.rstrip().endswith("nothing was asked yet")


def test_regenerate_asks_the_same_again_and_draws_anew(
    converse: Converse, image: Path, other: Path
) -> None:
    echo = Echo()
    typed = f"one\n/regenerate\n/image {other}\n/regenerate\ntwo\n"
    converse(typed, echo, image, settings={"seed": 5, "temperature": 1.0})
    assert echo.asked[0] == echo.asked[1] == echo.asked[2]
    assert [one["seed"] for one in echo.settings] == [5, 6, 7, 5]
    assert echo.sizes == [[(8, 8)]] * 3 + [[(8, 8), (9, 5)]]  # the new one goes with `two`


def test_settings_are_changed_and_shown(converse: Converse) -> None:
    echo = Echo()
    typed = "/set temperature 0.7\n/set seed 4\n/set top_k 3\n/set seed x\none\n"
    written = converse(typed, echo, settings=dict.fromkeys(SETTINGS))
    assert echo.settings == [{"temperature": 0.7, "top_p": None, "seed": 4, "max_new_tokens": None}]
    assert "temperature = 0.7, top_p = None, seed = 4" in written
    assert "top_k: no such setting; use one of temperature, top_p" in written
    assert "/set seed: 'x' is no number" in written


def test_a_chat_is_saved_as_markdown_and_as_a_record_that_trains(
    converse: Converse, image: Path, other: Path, tmp_path: Path
) -> None:
    text, lines = tmp_path / "chat.md", tmp_path / "chat.jsonl"
    typed = f"one\n/image {other}\ntwo\n/save {text}\n/save {lines}\n/save {text}\n"
    assert "no such" not in converse(typed, Echo(), image)
    assert text.read_text() == (
        f"**You:** ![image](<{image}>)\n\none\n\n**Assistant:** [1 turns, 1 images]\n\n"
        f"**You:** ![image](<{other}>)\n\ntwo\n\n**Assistant:** [3 turns, 2 images]\n"
    )
    (record,) = read_rows(SourceSettings(data=str(lines)))
    assert isinstance(record, InstructionRecord)
    assert record.images == (str(image), str(other))
    assert [turn.text for turn in record.turns][2] == "<image>\ntwo"
    assert [turn.loss for turn in record.turns] == [False, True, False, True]


def test_a_foreign_file_is_not_written_over_unasked(converse: Converse, tmp_path: Path) -> None:
    foreign = tmp_path / "notes.md"
    foreign.write_text("mine")
    written = converse(f"one\n/save {foreign}\n", Echo())
    assert "there is such a file already" in written
    converse(f"one\n/save {foreign}\nn\n", Echo(), tty=True)
    assert foreign.read_text() == "mine"
    converse(f"one\n/save {foreign}\ny\n", Echo(), tty=True)
    assert foreign.read_text().startswith("**You:** one")


def test_the_last_answer_is_explained_and_the_page_named(
    converse: Converse, image: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("explanation-1.html").write_text("another's")
    seen: list[tuple[Asked, Path]] = []

    def explain(asked: Asked, path: Path) -> None:
        path.write_text("made")
        seen.append((asked, path))

    typed = "/explain\none\n/explain\n/explain mine.png\n"
    written = converse(typed, Echo(), image, explain=explain)
    assert "there is no answer to explain yet" in written
    assert "Made explanation-2.html" in written
    assert [str(path) for _, path in seen] == ["explanation-2.html", "mine.png"]
    asked = seen[0][0]
    assert (asked.answer, asked.which) == ("[1 turns, 1 images]", 0)
    assert [turn.text for turn in asked.turns] == ["<image>\none"]
    assert Path("explanation-1.html").read_text() == "another's"
    assert "no image in this chat" in converse("one\n/explain\n", Echo(), explain=explain)


def test_what_is_wrong_is_told_and_the_chat_goes_on(converse: Converse, image: Path) -> None:
    echo = Echo()
    typed = "one\n/image gone.png\n/image\n/images x\n/save x.txt\nan <image> typed\ntwo\n/help\n"
    written = converse(typed, echo, image)
    for message in (
        "gone.png: no such image",
        "use /image PATH",
        "/images: no such command; /help lists them",
        "x.txt: give a file that ends in .md or .jsonl",
        "<image> stands for an image and cannot be typed",
        *COMMANDS,
    ):
        assert message in written
    # The failures left no trace: the third turn follows the first exchange, on the old image.
    assert [turn.text for turn in echo.asked[1]] == ["<image>\none", "[1 turns, 1 images]", "two"]


def test_an_error_of_the_model_is_told_and_its_question_forgotten(converse: Converse) -> None:
    class FailsOnce(Echo):
        def __call__(self, turns: Sequence[Turn], *rest: Any, **more: Any) -> Iterator[str]:
            if not self.asked:
                self.asked.append([])
                raise LaternaError("the prompt is too long")
            return super().__call__(turns, *rest, **more)

    streamer = FailsOnce()
    written = converse("one\ntwo\n", streamer)
    assert "the prompt is too long" in written
    assert streamer.asked[1] == [Turn(role="user", text="two")]


def test_a_bad_image_at_the_start_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LaternaError, match=r"gone\.png: no such image"):
        Chat(Echo(), [tmp_path / "gone.png"])
    with pytest.raises(LaternaError, match="cannot be typed"):
        Chat(Echo()).answer("<image> What is it?")


def test_a_real_assistant_gives_the_answer_that_evaluation_would_score(
    image: Path, tiny_assistant: VisionLanguageModel, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = Assistant(tiny_assistant).stream_prompt
    Chat(stream, [image], settings={"max_new_tokens": 6}).answer("What is it?")
    turns = [Turn(role="user", text="<image>\nWhat is it?")]
    expected = generate_answers(
        tiny_assistant, [(turns, [Image.new("RGB", (8, 8))])], Decoding(max_new_tokens=6)
    )
    assert capsys.readouterr().out.split() == expected[0].split()
    assert expected[0]
