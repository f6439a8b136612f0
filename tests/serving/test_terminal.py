"""The terminal conversation, with piped input and a streamer that stands for the model."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from laterna.errors import LaternaError
from laterna.inference.assistant import Assistant
from laterna.inference.generation import Decoding, generate_answers
from laterna.model.vlm import VisionLanguageModel
from laterna.records import Turn
from laterna.serving.terminal import COMMANDS, chat


class Echo:
    """Answers "[how many turns, how many images]" in two pieces, and remembers the turns."""

    def __init__(self) -> None:
        self.asked: list[list[Turn]] = []

    def __call__(
        self,
        turns: Sequence[Turn],
        images: Sequence[Image.Image],
    ) -> Iterator[str]:
        self.asked.append(list(turns))
        yield f" [{len(turns)} turns,"
        yield f" {len(images)} images]"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "a cat.png"
    Image.new("RGB", (8, 8)).save(path)
    return path


def converse(
    monkeypatch: pytest.MonkeyPatch, typed: str, streamer: Echo, image: Path | None = None
) -> str:
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    written = io.StringIO()
    # `input` writes its prompt to standard output, which is of no interest here.
    console = Console(file=written, highlight=False, width=80)
    chat(streamer, image, None, console=console)
    return written.getvalue()


def test_a_prompt_prints_its_answer_and_nothing_else(
    image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    echo = Echo()
    chat(echo, image, "What is it?")
    assert capsys.readouterr() == ("[1 turns, 1 images]\n", "")
    assert echo.asked == [[Turn(role="user", text="<image>\nWhat is it?")]]


def test_without_a_image_there_is_no_mark(capsys: pytest.CaptureFixture[str]) -> None:
    echo = Echo()
    chat(echo, None, "Hello")
    assert capsys.readouterr().out == "[1 turns, 0 images]\n"
    assert echo.asked == [[Turn(role="user", text="Hello")]]


def test_a_long_answer_is_not_wrapped_and_its_markup_not_interpreted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    answer = "[bold]a[/bold] :smile: " + "word " * 100 + "end"

    def streamer(
        turns: Sequence[Turn],
        images: Sequence[Image.Image],
    ) -> Iterator[str]:
        yield from (answer[:4], answer[4:])

    chat(streamer, None, "Hello")
    assert capsys.readouterr().out == answer + "\n"


def test_a_conversation_remembers_its_turns(monkeypatch: pytest.MonkeyPatch, image: Path) -> None:
    echo = Echo()
    written = converse(monkeypatch, "one\n\ntwo\n/quit\nthree\n", echo, image)
    assert echo.asked[1] == [
        Turn(role="user", text="<image>\none"),
        Turn(role="assistant", text="[1 turns, 1 images]"),
        Turn(role="user", text="two"),
    ]
    assert len(echo.asked) == 2
    assert written.splitlines()[0] == COMMANDS
    assert "assistant:  [1 turns, 1 images]\n" in written
    assert "assistant:  [3 turns, 1 images]\n" in written
    assert written.endswith("Goodbye.\n")


def test_the_end_of_the_input_ends_politely(monkeypatch: pytest.MonkeyPatch) -> None:
    assert converse(monkeypatch, "", Echo()).endswith("\nGoodbye.\n")


def test_an_interrupt_ends_politely(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(Echo):
        def __call__(self, *_: object, **__: object) -> Iterator[str]:
            yield "half an "
            raise KeyboardInterrupt

    written = converse(monkeypatch, "one\ntwo\n", Interrupted())
    assert written.endswith("half an \nGoodbye.\n")


def test_reset_keeps_the_image_and_forgets_the_turns(
    monkeypatch: pytest.MonkeyPatch, image: Path
) -> None:
    echo = Echo()
    converse(monkeypatch, "one\n/reset\ntwo\n", echo, image)
    assert echo.asked[1] == [Turn(role="user", text="<image>\ntwo")]


def test_a_new_image_begins_a_new_conversation(
    monkeypatch: pytest.MonkeyPatch, image: Path
) -> None:
    echo = Echo()
    written = converse(monkeypatch, f"one\n/image {image}\ntwo\n", echo)
    assert [turn.text for turn in echo.asked[1]] == ["<image>\ntwo"]
    assert f"A new conversation, about {image}." in written


def test_a_bad_image_or_command_is_told_and_the_chat_goes_on(
    monkeypatch: pytest.MonkeyPatch, image: Path
) -> None:
    echo = Echo()
    typed = "one\n/image gone.png\n/image\n/images x\nan <image> typed\ntwo\n"
    written = converse(monkeypatch, typed, echo, image)
    assert "gone.png: no such image" in written
    assert "/image: not a command." in written
    assert "/images x: not a command." in written
    assert "<image> stands for an image and cannot be typed" in written
    # The failures left no trace: the third turn follows the first exchange, on the old image.
    assert [turn.text for turn in echo.asked[1]] == [
        "<image>\none",
        "[1 turns, 1 images]",
        "two",
    ]


def test_an_error_of_the_model_is_told_and_its_question_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class FailsOnce(Echo):
        def __call__(
            self,
            turns: Sequence[Turn],
            images: Sequence[Image.Image],
        ) -> Iterator[str]:
            if not self.asked:
                self.asked.append([])
                raise LaternaError("the prompt is too long")
            return super().__call__(turns, images)

    streamer = FailsOnce()
    written = converse(monkeypatch, "one\ntwo\n", streamer)
    assert "the prompt is too long" in written
    assert streamer.asked[1] == [Turn(role="user", text="two")]


def test_a_bad_image_at_the_start_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LaternaError, match=r"gone\.png: no such image"):
        chat(Echo(), tmp_path / "gone.png", "What is it?")
    with pytest.raises(LaternaError, match="cannot be typed"):
        chat(Echo(), None, "<image> What is it?")


def test_a_real_assistant_gives_the_answer_that_evaluation_would_score(
    image: Path, tiny_assistant: VisionLanguageModel, capsys: pytest.CaptureFixture[str]
) -> None:
    chat(
        partial(Assistant(tiny_assistant).stream_prompt, max_new_tokens=6),
        image,
        "What is it?",
    )
    turns = [Turn(role="user", text="<image>\nWhat is it?")]
    expected = generate_answers(
        tiny_assistant, [(turns, [Image.new("RGB", (8, 8))])], Decoding(max_new_tokens=6)
    )
    assert capsys.readouterr().out.split() == expected[0].split()
    assert expected[0]
