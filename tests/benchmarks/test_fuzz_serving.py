"""A thousand fuzzed requests against a real server; the ten thousand are the benchmark's own."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from laterna.inference.assistant import Assistant
from laterna.model.vlm import VisionLanguageModel


@pytest.mark.slow
def test_no_request_brings_the_server_down(
    tiny_assistant: VisionLanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks" / "fuzzing"))
    fuzz = importlib.import_module("fuzz_serving")
    checkpoint = Assistant(tiny_assistant).save(tmp_path / "checkpoint")
    with fuzz.serving(str(checkpoint), tmp_path) as server:
        found = fuzz.fuzz(server, 1000, seed=1)
    assert found["faults"] == []
    assert set(found["outcomes"]) == {
        kind.__name__.removeprefix("of_") for kind in importlib.import_module("fuzz_requests").KINDS
    }
    answered = sum(kind.get("200", 0) for kind in found["outcomes"].values())
    refused = sum(kind.get("400", 0) for kind in found["outcomes"].values())
    assert answered > 50 and refused > 200


def test_the_judge_finds_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks" / "fuzzing"))
    fuzz = importlib.import_module("fuzz_serving")
    attack = fuzz.Attack("kind", b"")
    json = b"\r\ncontent-type: application/json\r\n\r\n"
    for answer, fault in (
        (b"HTTP/1.1 500 X\r\n\r\noops", "status 500"),
        (b"HTTP/1.1 400 X" + json + b'{"detail": "x"}', "error's form"),
        (b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: {}", "[DONE]"),
    ):
        assert fault in fuzz.judged(attack, answer).fault
    right = b'{"error": {"message": "", "type": "", "param": null, "code": ""}}'
    assert fuzz.judged(attack, b"HTTP/1.1 400 X" + json + right).fault == ""
