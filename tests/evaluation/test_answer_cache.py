"""Nothing is asked twice: however often killed, in whatever form it comes again."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from PIL import Image

from laterna.data.images.fitting import blank
from laterna.errors import LaternaError
from laterna.evaluation.answer_cache import (
    CACHE_NAME,
    AnswerCache,
    Said,
    answer_key,
    model_fingerprint,
)
from laterna.evaluation.run import evaluate
from laterna.inference.assistant import Assistant
from laterna.inference.batching.request import Finish, Request
from laterna.inference.batching.steps import EngineSettings
from laterna.inference.engine import Engine
from laterna.inference.generation import Decoding, Prompt
from laterna.model.vlm import VisionLanguageModel
from laterna.records import Turn
from laterna.world.dataset import write_world


def nobody() -> Assistant:
    prepare = SimpleNamespace(blank=lambda width, height: blank((width, height)))
    return cast(Assistant, SimpleNamespace(model=SimpleNamespace(prepare=prepare)))


class Teller:
    """Answers by the words of the question, notes each in a file, and may be killed at one."""

    def __init__(self, notes: Path, killed_at: int = -1) -> None:
        self.notes, self.killed_at, self.count = notes, killed_at, 0

    def __call__(
        self, model: VisionLanguageModel, prompts: Sequence[Prompt], decoding: Decoding
    ) -> list[str]:
        self.count += 1
        if self.count == self.killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
        for turns, images in prompts:
            shown = [image.tobytes().hex()[:600] for image in images]
            with self.notes.open("a") as file:
                file.write(json.dumps([turns[0].text, shown]) + "\n")
        return [("yes", "two", "red")[len(turns[0].text) % 3] for turns, _ in prompts]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache") / "world"
    write_world(folder, images=6, seed=1)
    return folder


def killed(run: Callable[[Path, Path, int], bytes], notes: Path, cache: Path, moment: int) -> bool:
    """Run in a child process that kills itself; tell whether it did."""
    child = os.fork()
    if not child:
        try:
            run(notes, cache, moment)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_killed_at_ten_moments_it_asks_nothing_twice_and_ends_in_the_same_table(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("laterna.evaluation.run.model_fingerprint", lambda model: "the same")

    def run(notes: Path, cache: Path, killed_at: int = -1) -> bytes:
        found = evaluate(
            nobody(),
            "world",
            drawn,
            cache=cache,
            answer=Teller(notes, killed_at),
            batch=1,
            progress=False,
        )
        return msgspec.json.encode(found)

    straight = run(tmp_path / "straight.jsonl", tmp_path / "straight")
    asked = (tmp_path / "straight.jsonl").read_text().splitlines()
    assert max(Counter(asked).values()) == 1
    assert len(asked) > 60
    notes, cache = tmp_path / "killed.jsonl", tmp_path / "killed"
    for moment in (1, 2, 3, 5, 7, 4, 6, 8, 9, 3):
        assert killed(run, notes, cache, moment)
    before = len(notes.read_text().splitlines())
    assert before == 1 - 1 + 1 + 2 + 4 + 6 + 3 + 5 + 7 + 8 + 2
    assert run(notes, cache) == straight
    assert Counter(notes.read_text().splitlines()) == Counter(asked)
    assert run(notes, cache) == straight
    assert len(notes.read_text().splitlines()) == len(asked)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_whatever_the_engine_has_answered_is_never_answered_again(
    tiny_assistant: VisionLanguageModel,
    drawn: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Killed with many in flight, answered out of order: only unfinished ones come again."""
    begin, ended, submit = Request.__init__, Request.end, Engine.submit
    mark = ""

    def submitted(engine: Engine, turns: Any, images: Any, *rest: Any, **more: Any) -> Request:
        nonlocal mark
        shown = b"".join(image.tobytes() for image in images)
        mark = hashlib.sha256(turns[0].text.encode() + shown).hexdigest()
        return submit(engine, turns, images, *rest, **more)

    def begun(request: Any, *rest: Any, **more: Any) -> None:
        request.mark = mark
        begin(request, *rest, **more)

    def run(notes: Path, cache: Path, killed_at: int = -1) -> bytes:
        count = 0

        def end(request: Any, finish: Finish) -> None:
            nonlocal count
            ended(request, finish)
            with notes.open("a") as file:
                file.write(request.mark + "\n")
            count += 1
            if count == killed_at:
                os.kill(os.getpid(), signal.SIGKILL)

        monkeypatch.setattr(Engine, "submit", submitted)
        monkeypatch.setattr(Request, "__init__", begun)
        monkeypatch.setattr(Request, "end", end)
        assistant = Assistant(tiny_assistant, EngineSettings(rows=8))
        found = evaluate(assistant, "world", drawn, cache=cache, controls=(), progress=False)
        return msgspec.json.encode(found)

    straight = run(tmp_path / "straight.txt", tmp_path / "straight")
    asked = Counter((tmp_path / "straight.txt").read_text().split())
    notes, cache = tmp_path / "killed.txt", tmp_path / "killed"
    for moment in (1, 2, 3, 1, 4, 2, 5, 1, 3, 2):
        assert killed(run, notes, cache, moment)
    assert run(notes, cache) == straight
    assert Counter(notes.read_text().split()) == asked


def test_an_answer_that_cannot_be_kept_ends_the_run(
    tiny_assistant: VisionLanguageModel, drawn: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: AnswerCache, key: bytes, said: Said) -> None:
        raise LaternaError("the disk is full")

    assistant = Assistant(tiny_assistant)
    before = evaluate(assistant, "world", drawn, limit=4, controls=(), progress=False)
    with monkeypatch.context() as patch:
        patch.setattr(AnswerCache, "keep", full)
        with pytest.raises(LaternaError, match="the disk is full"):
            evaluate(assistant, "world", drawn, limit=4, controls=(), progress=False)
    # the engine is as good as before
    assert evaluate(assistant, "world", drawn, limit=4, controls=(), progress=False) == before


def test_the_key_hangs_on_model_words_pixels_and_decoding() -> None:
    red, blue = (Image.new("RGB", (4, 4), colour) for colour in ("red", "blue"))
    ask = [Turn(role="user", text="<image>\nWhat?")]
    short = Decoding(max_new_tokens=4)
    keys = {
        answer_key("m", (ask, [red]), short),
        answer_key("n", (ask, [red]), short),
        answer_key("m", (ask, [blue]), short),
        answer_key("m", (ask, [red.resize((2, 8))]), short),
        answer_key("m", ([Turn(role="user", text="<image>\nWho?")], [red]), short),
        answer_key("m", (ask, [red]), Decoding(max_new_tokens=5)),
    }
    assert len(keys) == 6
    assert answer_key("m", (ask, [red.copy()]), short) in keys


def test_the_fingerprint_hangs_on_weights_template_and_preparation(
    tiny_assistant: VisionLanguageModel,
) -> None:
    first = model_fingerprint(tiny_assistant)
    assert first == model_fingerprint(tiny_assistant)
    weight = next(tiny_assistant.connector.parameters())
    before = weight.data.clone()
    weight.data[..., 0] += 1e-3
    assert model_fingerprint(tiny_assistant) != first
    weight.data.copy_(before)
    template, fit = tiny_assistant.template, tiny_assistant.prepare.fit
    tiny_assistant.template = template + " "
    assert model_fingerprint(tiny_assistant) != first
    tiny_assistant.template = template
    tiny_assistant.prepare.fit = "crop" if fit != "crop" else "pad"
    assert model_fingerprint(tiny_assistant) != first
    tiny_assistant.prepare.fit = fit
    assert model_fingerprint(tiny_assistant) == first


def test_answers_come_back_as_they_were_and_the_first_one_stays(tmp_path: Path) -> None:
    path = tmp_path / "new" / CACHE_NAME
    with AnswerCache(path) as cache:
        cache.keep(b"1", Said("zwei, drei … 四", 0.25))
        cache.keep(b"1", Said("another", 0.5))
        cache.keep(b"2", Said(""))
    with AnswerCache(path) as again:
        assert again.find(b"1") == Said("zwei, drei … 四", 0.25)
        assert again.find(b"2") == Said("", None)
        assert again.find(b"3") is None


@pytest.mark.parametrize("content", [b"not a database, but long enough to be one" * 40, b"other"])
def test_a_file_that_is_no_cache_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / CACHE_NAME
    if content == b"other":
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE mine (a)")
        connection.close()
    else:
        path.write_bytes(content)
    before = path.read_bytes()
    with pytest.raises(LaternaError, match=r"answers\.sqlite: cannot be read as a cache"):
        AnswerCache(path)
    assert path.read_bytes() == before
