"""The clients that people have, each against a server on loopback; skipped where not installed."""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from PIL import Image

from laterna.inference.assistant import Assistant
from laterna.inference.batching.pace import EngineSettings
from laterna.inference.engine import Engine
from laterna.model.vlm import VisionLanguageModel
from laterna.records import Turn
from laterna.serving.door import ServerSettings
from laterna.serving.openai_api import create_app

from .test_openai_api import data_url, run_server

PAGE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
QUESTION = "What is on the table?"


def need(package: str) -> pytest.MarkDecorator:
    """Skip by name where a client is not installed."""
    return pytest.mark.skipif(
        importlib.util.find_spec(package) is None, reason=f"{package} is not installed"
    )


@pytest.fixture
def url(tiny_assistant: VisionLanguageModel) -> Iterator[str]:
    engine = Engine(tiny_assistant, EngineSettings(rows=4, queue=8))
    app = create_app(engine, ServerSettings(name="instruct"))
    for address in run_server(app):
        yield f"{address}/v1"
    engine.close()


def said_of(model: VisionLanguageModel, text: str) -> str:
    """What the assistant itself says of the red image."""
    red = Image.new("RGB", (20, 30), "red")
    return Assistant(model).answer(red, [Turn(role="user", text=text)], max_new_tokens=8)


@pytest.fixture
def answer(tiny_assistant: VisionLanguageModel) -> str:
    """The same where the image stands first."""
    return said_of(tiny_assistant, f"<image>\n{QUESTION}")


@pytest.fixture
def answer_behind(tiny_assistant: VisionLanguageModel) -> str:
    """The same where the question stands first."""
    return said_of(tiny_assistant, f"{QUESTION}\n<image>")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "image.png"
    path.write_bytes(base64.b64decode(data_url("red").partition(",")[2]))
    return path


def run(words: list[str], folder: Path, **environment: str) -> str:
    """Run a client's command and return what it prints."""
    done = subprocess.run(words, cwd=folder, env={**os.environ, **environment}, timeout=300,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_openai_client_tries_again_and_reads_errors(url: str) -> None:
    client = openai.OpenAI(base_url=url, api_key="none")  # with its own retries
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="instruct", messages=[])
    assert (caught.value.param, caught.value.code) == ("messages", "invalid_value")
    assert caught.value.request_id is not None
    with client.chat.completions.with_streaming_response.create(
        model="instruct", messages=[{"role": "user", "content": QUESTION}], max_tokens=2
    ) as raw:
        assert raw.headers["x-request-id"]


COMMANDS = [
    line
    for block in re.findall(r"^```sh\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    for line in block.replace("\\\n", " ").splitlines()
    if "curl" in line
]


def test_the_page_shows_commands_of_curl() -> None:
    assert len(COMMANDS) == 4


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("number", range(4))
def test_curl_as_the_page_has_it(number: int, url: str, answer: str, file: Path) -> None:
    line = COMMANDS[number].replace("http://127.0.0.1:8000/v1", url)
    line = line.replace("http://127.0.0.1:8000", url.removesuffix("/v1"))
    said = run(["bash", "-c", line], file.parent)
    if "/health" in line:
        assert json.loads(said) == {"status": "ok"}
    elif "/models" in line:
        assert json.loads(said)["data"][0]["id"] == "instruct"
    elif '"stream": true' in line:
        assert said.rstrip().endswith("data: [DONE]")
    else:
        text = json.loads(said)["choices"][0]["message"]["content"]
        assert text and text.strip().startswith(answer[:8])


@need("langchain_openai")
def test_langchain(url: str, answer: str) -> None:
    from langchain_core.messages import HumanMessage
    from langchain_openai import ChatOpenAI

    chat = ChatOpenAI(base_url=url, api_key="none", model="instruct", temperature=0, max_tokens=8,
                      stream_usage=True)  # fmt: skip
    image: dict[str, Any] = {"type": "image_url", "image_url": {"url": data_url("red")}}
    asked = [HumanMessage(content=[image, {"type": "text", "text": QUESTION}])]
    found = chat.invoke(asked)
    assert found.content.strip() == answer
    assert 0 < found.usage_metadata["output_tokens"] <= 8
    chunks = list(chat.stream(asked))
    assert "".join(chunk.content for chunk in chunks) == found.content
    assert sum(bool(chunk.usage_metadata) for chunk in chunks) == 1
    assert [one.content for one in chat.batch([asked] * 3)] == [found.content] * 3


@need("llm")
@pytest.mark.parametrize("stream", [True, False])
def test_the_llm_command(url: str, answer_behind: str, file: Path, stream: bool) -> None:
    (shown,) = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    settings = shown.replace("http://127.0.0.1:8000/v1", url)
    (file.parent / "extra-openai-models.yaml").write_text(settings)
    words = [sys.executable, "-m", "llm", "-m", "laterna", QUESTION, "-a", "image.png", "--no-log",
             "-o", "temperature", "0", "-o", "max_tokens", "8"]  # fmt: skip
    said = run(
        words + ["--no-stream"] * (not stream),
        file.parent,
        LLM_USER_PATH=str(file.parent),
        LLM_LOAD_PLUGINS="",
    )
    assert said.strip() == answer_behind


TASK = """
task: laterna_tiny
dataset_path: parquet
dataset_kwargs: {data_files: {test: FOLDER/data.parquet}}
test_split: test
output_type: generate_until
doc_to_visual: !function tiny_utils.visual
doc_to_text: !function tiny_utils.text
doc_to_target: answer
generation_kwargs: {max_new_tokens: 8, temperature: 0}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""
UTILS = """
import io
from PIL import Image

def visual(doc):
    return [Image.open(io.BytesIO(doc["image"])).convert("RGB")]

def text(doc, kwargs=None):
    return doc["question"]
"""


@pytest.mark.slow
@need("lmms_eval")
def test_lmms_evals_openai_model(url: str, answer: str, file: Path) -> None:
    import pyarrow
    from pyarrow.parquet import write_table

    folder = file.parent
    row = {"image": file.read_bytes(), "question": QUESTION, "answer": answer}
    write_table(pyarrow.Table.from_pylist([row] * 3), folder / "data.parquet")
    (folder / "tiny.yaml").write_text(TASK.replace("FOLDER", str(folder)))
    (folder / "tiny_utils.py").write_text(UTILS)
    run(
        [sys.executable, "-m", "lmms_eval", "--model", "openai", "--model_args",
         f"model_version=instruct,base_url={url},api_key=none", "--tasks", "laterna_tiny",
         "--include_path", str(folder), "--log_samples", "--output_path", str(folder / "out")],
        folder,
        HF_DATASETS_OFFLINE="1",
        HF_HOME=str(folder / "hub"),
    )  # fmt: skip
    (samples,) = folder.glob("out/**/*samples*.jsonl")
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    assert len(rows) == 3
    assert all(answer[:8] in json.dumps(row["filtered_resps"], ensure_ascii=False) for row in rows)
