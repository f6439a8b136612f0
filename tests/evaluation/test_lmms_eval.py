"""Laterna as a model of lmms-eval; skipped where that is not installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from laterna.errors import LaternaError
from laterna.inference.assistant import Assistant
from laterna.inference.sampling import Decoding
from laterna.records import Turn

pytest.importorskip("lmms_eval", reason="lmms_eval is not installed")

from laterna.evaluation.lmms_eval import (  # only where the host is
    MANIFEST,
    LaternaModel,
    read_decoding,
    read_messages,
)

ROOT = Path(__file__).parents[2]
QUESTION = "What is on the table?"
TASK = """
task: laterna_local
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/rows.jsonl}}
test_split: test
output_type: generate_until
doc_to_visual: !function local_utils.visual
doc_to_text: question
doc_to_target: answer
generation_kwargs: {max_new_tokens: 8, temperature: 0.2, top_p: 0, do_sample: false}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""
UTILS = """
from PIL import Image

def visual(doc):
    return [Image.open(doc["image"])]
"""


@pytest.fixture
def checkpoint(tiny_assistant: Any, tiny_recipe: Any, tmp_path: Path) -> Path:
    tiny_assistant.recipe = tiny_recipe
    return Assistant(tiny_assistant).save(tmp_path / "checkpoint")


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    paths = []
    for color in ("red", "green", "blue"):
        paths.append(tmp_path / f"{color}.png")
        Image.new("RGB", (20, 30), color).save(paths[-1])
    return paths


def entry_point(folder: Path) -> Path:
    """The entry points of pyproject.toml, as an installation has them."""
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    info = folder / "site" / "laterna_points-0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: laterna-points\nVersion: 0\n")
    (info / "entry_points.txt").write_text(
        "".join(
            f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in named.items())
            for group, named in points.items()
        )
    )
    return info.parent


@pytest.mark.slow
def test_lmms_eval_runs_a_local_task(checkpoint: Path, images: list[Path], tmp_path: Path) -> None:
    from laterna.inference.assistant import load

    assistant = load(checkpoint, device="cpu", dtype="float32")
    said = [assistant.answer(image, QUESTION, max_new_tokens=8) for image in images]
    references = [said[0], said[1], "something else"]
    rows = [
        {"image": str(image), "question": QUESTION, "answer": reference}
        for image, reference in zip(images, references, strict=True)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "local.yaml").write_text(TASK.replace("FOLDER", str(tmp_path)))
    (tmp_path / "local_utils.py").write_text(UTILS)
    path = os.pathsep.join([str(entry_point(tmp_path)), str(ROOT / "src"), *sys.path])
    done = subprocess.run(
        [sys.executable, "-m", "lmms_eval", "--model", "laterna", "--model_args",
         f"pretrained={checkpoint},device=cpu,dtype=float32", "--tasks", "laterna_local",
         "--include_path", str(tmp_path), "--log_samples", "--output_path", str(tmp_path / "out")],
        cwd=tmp_path, timeout=900, capture_output=True, text=True,  # it reads all its tasks first
        env={**os.environ, "PYTHONPATH": path, "HF_DATASETS_OFFLINE": "1",
             "HF_HOME": str(tmp_path / "hub")},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (samples,) = tmp_path.glob("out/**/*samples*.jsonl")
    logged = [json.loads(line) for line in samples.read_text().splitlines()]
    assert [row["filtered_resps"] for row in logged] == said
    (results,) = tmp_path.glob("out/**/*results.json")
    (score,) = (
        value
        for name, value in json.loads(results.read_text())["results"]["laterna_local"].items()
        if name.startswith("exact_match,")
    )
    assert score == pytest.approx(2 / 3)


def test_the_host_finds_the_model() -> None:
    from lmms_eval.models.registry_v2 import ModelRegistryV2

    registry = ModelRegistryV2()
    registry.register_manifest(MANIFEST)
    assert registry.get_model_class("laterna") is LaternaModel


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ({}, Decoding(max_new_tokens=1024)),
        ({"until": ["\n\n"], "do_sample": False}, Decoding(max_new_tokens=1024)),
        ({"until": "END", "max_new_tokens": 4}, Decoding(max_new_tokens=4, stop=("END",))),
        # POPE's and MM-Vet's own: greedy, whatever else they name
        ({"max_new_tokens": 128, "temperature": 0, "top_p": 0, "num_beams": 1, "do_sample": False},
         Decoding(max_new_tokens=128)),
        ({"temperature": 0.2, "do_sample": False}, Decoding(max_new_tokens=1024)),
        ({"temperature": 0.2, "top_p": 0.9, "do_sample": True, "max_new_tokens": 5},
         Decoding(max_new_tokens=5, temperature=0.2, top_p=0.9)),
    ],
)  # fmt: skip
def test_generation_kwargs(asked: dict[str, Any], meant: Decoding) -> None:
    assert read_decoding(asked) == meant


def test_beams_are_refused() -> None:
    with pytest.raises(LaternaError, match="num_beams = 3"):
        read_decoding({"num_beams": 3})


def message(*parts: tuple[str, Any]) -> list[dict[str, Any]]:
    names = {"text": "text"}
    content = [{"type": kind, names.get(kind, "url"): value} for kind, value in parts]
    return [{"role": "user", "content": content}]


def test_messages_become_turns(images: list[Path]) -> None:
    gray = Image.new("L", (4, 4))
    turns, opened = read_messages(
        message(("image", gray), ("text", "Is it"), ("image", str(images[0])), ("text", "this?"))
    )
    assert turns == [Turn(role="user", text="<image>\nIs it\n<image>\nthis?")]
    assert [(image.mode, image.size) for image in opened] == [("RGB", (4, 4)), ("RGB", (20, 30))]


@pytest.mark.parametrize(
    ("part", "why"),
    [
        (("video", "a.mp4"), "a part of type video"),
        (("text", "What is <image>?"), "its text holds <image>"),
    ],
)
def test_what_cannot_be_asked_names_its_question(
    checkpoint: Path, part: tuple[str, Any], why: str
) -> None:
    model = LaternaModel(str(checkpoint), device="cpu", dtype="float32", batch_size="1")
    model.task_dict = {"mine": {"test": [None]}}
    request = SimpleNamespace(args=("", lambda _: message(part), {}, 0, "mine", "test"))
    with pytest.raises(LaternaError, match=f"mine, document 0: {why}"):
        model.generate_until([request])
    with pytest.raises(LaternaError, match="mine, document 0"):
        model.generate_until_multi_round([request])
    with pytest.raises(LaternaError, match="1 requests for likelihoods"):
        model.loglikelihood([request])


def test_rounds_see_the_answers_before(checkpoint: Path, images: list[Path]) -> None:
    model = LaternaModel(str(checkpoint), device="cpu", dtype="float32", batch_size=3)
    model.task_dict = {"mine": {"test": [images[0]]}}
    first = message(("image", str(images[0])), ("text", QUESTION))
    seen: list[Any] = []

    def messages(
        _: Any, round_idx: int = 0, previous_output: Any = None, previous_round_info: Any = None
    ) -> Any:
        if not round_idx:
            return first
        seen.append((round_idx, previous_output, previous_round_info))
        second = message(("text", f"You said {previous_output[-1]!r}. Sure?"))
        return second, round_idx == 2, previous_output, f"told {round_idx}"

    request = SimpleNamespace(
        args=("", messages, {"max_new_tokens": 4}, 0, "mine", "test"),
    )
    (said,) = model.generate_until_multi_round([request])
    own = model.assistant
    assert said[0] == own.answer(images[0], QUESTION, max_new_tokens=4)
    assert said[1] == own.answer(None, f"You said {said[0]!r}. Sure?", max_new_tokens=4)
    assert seen == [(1, said[:1], None), (2, said, "told 1")]
    assert model.assistant.engine.settings.rows == 3


def test_decodings_may_differ_within_a_run(checkpoint: Path, images: list[Path]) -> None:
    model = LaternaModel(str(checkpoint), device="cpu", dtype="float32")
    model.task_dict = {"mine": {"test": images}}
    requests = [
        SimpleNamespace(
            args=(
                "",
                lambda image: message(("image", str(image)), ("text", QUESTION)),
                {"max_new_tokens": longest},
                number,
                "mine",
                "test",
            )
        )
        for number, longest in enumerate((2, 2, 6))
    ]
    own = [
        model.assistant.answer(image, QUESTION, max_new_tokens=longest)
        for image, longest in zip(images, (2, 2, 6), strict=True)
    ]
    assert model.generate_until(requests) == own
