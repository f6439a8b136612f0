"""The real inputs that stand beside the repository, where they are there."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


def _shared(name: str) -> Path:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"the real input {name} is not beside the repository (../shared/data)")
    return path


@pytest.fixture
def contexts_file() -> Path:
    """40 real COCO val2014 contexts, as LLaVA's teacher saw them."""
    return _shared("coco2014_val_contexts.jsonl")


@pytest.fixture
def coco_mini() -> Path:
    """80 real COCO train2017 images with their annotations, in COCO's own form."""
    return _shared("coco_mini")


class StubEndpoint:
    """The stub in its own process, and what it counted so far."""

    def __init__(self, *options: str) -> None:
        command = [sys.executable, str(Path(__file__).with_name("stub_endpoint.py")), *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = self.process.stdout.readline().strip()
        self.root = f"http://127.0.0.1:{self.port}"
        self.url = f"{self.root}/v1"

    def stats(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.root}/stats") as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def stub() -> Iterator[StubEndpoint]:
    """One stub for a module, which is asked by the names of models; the key is not set."""
    endpoint = StubEndpoint()
    yield endpoint
    endpoint.close()


@pytest.fixture
def start_stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., StubEndpoint]]:
    """Start stubs of an OpenAI-compatible endpoint; the key is in the environment."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-never-to-be-stored")
    started: list[StubEndpoint] = []

    def start(*options: str) -> StubEndpoint:
        started.append(StubEndpoint(*options))
        return started[-1]

    yield start
    for stub in started:
        stub.close()


@pytest.fixture
def some_contexts(tmp_path: Path) -> Path:
    """24 images in LLaVA's context lines, no two alike."""
    rows = [
        {
            "id": number,
            "image": f"{number}.jpg",
            "captions": [f"A dog and {number + 2} kites.", f"Image {number} of a dog."],
            "instances": [{"category": "dog", "bbox": [0.1, 0.1, 0.3, 0.3 + number / 100]}],
        }
        for number in range(24)
    ]
    path = tmp_path / "contexts.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path
