"""CONTRIBUTING's table is true: each kind of piece is one file and one line, and then is used.

Every test puts one line into a dictionary and then uses the piece as a user would, by a command
or by a name of `laterna`'s.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from msgspec.structs import replace
from PIL import Image

import laterna
from laterna.cli import main
from laterna.commands import COMMANDS
from laterna.commands.base import Command
from laterna.data.template import SHIPPED_TEMPLATES
from laterna.evaluation.metrics import METRICS
from laterna.evaluation.metrics.base import Metric, mean_score
from laterna.evaluation.tasks import TASKS
from laterna.evaluation.tasks.base import Task
from laterna.inference.assistant import Assistant
from laterna.lab import EXPERIMENTS, Experiment
from laterna.lab.bench import Plan
from laterna.lab.experiment import Answer, Arm, Value
from laterna.model.connectors import CONNECTORS
from laterna.model.exporters import EXPORTS, Export
from laterna.model.importers import LAYOUTS, Layout
from laterna.model.vision import FAMILIES
from laterna.model.vision.family import Family, Geometry
from laterna.model.vlm import VisionLanguageModel
from laterna.planner.hardware import GPUS, Gpu
from laterna.recipe import ConnectorSettings, Recipe, RunSettings, VisionSettings, load_recipe
from laterna.records import InstructionRecord, Message, Question, Reply
from laterna.scenes.readers import READERS
from laterna.scenes.readers.base import Found, RawScene, Reader
from laterna.serving.engines import ENGINES, ServingEngine
from laterna.serving.listening import Listening
from laterna.synthesis.enrichment import ENRICHMENTS, Enrichment
from laterna.synthesis.outputs import OUTPUTS
from laterna.synthesis.teachers import TEACHERS
from laterna.training.telemetry import TrackedRun
from laterna.training.throughput import StepFigures
from laterna.training.trackers import TRACKERS

ROOT = Path(__file__).parent.parent


@pytest.fixture
def temporary_module(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], ModuleType]:
    """Makes a module of a source text, gone after the test."""

    def make(name: str, source: str) -> ModuleType:
        spec = spec_from_loader(name, loader=None)
        assert isinstance(spec, ModuleSpec)
        module = module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        exec(compile(source, name, "exec"), module.__dict__)
        return module

    return make


@pytest.fixture
def recipe(tiny_recipe: Recipe, tmp_path: Path) -> Recipe:
    """The tiny recipe over four plain images; a stage takes one step."""
    (tmp_path / "images").mkdir()
    rows = []
    for number, colour in enumerate(("red", "blue", "red", "blue")):
        Image.new("RGB", (28, 28), colour).save(tmp_path / "images" / f"{number}.png")
        turns = [{"from": "human", "value": "<image>\nWhat colour?"}]
        turns.append({"from": "gpt", "value": colour})
        rows.append({"id": number, "image": f"{number}.png", "conversations": turns})
    (tmp_path / "records.json").write_text(json.dumps(rows))
    return replace(tiny_recipe, align=replace(tiny_recipe.align, max_steps=1))


@pytest.fixture
def checkpoint(tiny_assistant: VisionLanguageModel, tmp_path: Path) -> str:
    """A checkpoint of the tiny assistant."""
    return str(Assistant(tiny_assistant).save(tmp_path / "checkpoint"))


def trained(recipe: Recipe, folder: Path) -> Assistant:
    """What a step of stage 1 makes of a recipe, read back from its checkpoint."""
    return laterna.load(laterna.train(recipe, stage="align", out=folder), device="cpu")


def test_the_connector_that_contributing_shows_is_trained_and_answers(
    recipe: Recipe,
    tmp_path: Path,
    temporary_module: Callable[[str, str], ModuleType],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    made = temporary_module("half_connector", shown).HalfConnector
    monkeypatch.setitem(CONNECTORS, "half", made)
    assistant = trained(
        replace(recipe, connector=ConnectorSettings(kind="half")), tmp_path / "align"
    )
    assert type(assistant.model.connector) is made
    assert assistant.model.image_tokens(32, 32) == 2  # of 4 patches
    assert isinstance(assistant.answer(tmp_path / "images" / "0.png", "Red?"), str)


def test_a_vision_family(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import ViTConfig, ViTImageProcessorPil, ViTModel

    def geometry(config: Any, depth: int, side: int) -> Geometry:
        return Geometry(config.hidden_size, side // config.patch_size, leading=1)

    vit = Family(ViTModel, ViTImageProcessorPil, blocks="layers", geometry=geometry)
    monkeypatch.setitem(FAMILIES, "vit", vit._replace(unused=("pooler", "layernorm")))
    source = str(tmp_path / "vit")
    config = ViTConfig(
        hidden_size=24,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=42,
        patch_size=14,
    )
    ViTModel(config).save_pretrained(source)
    ViTImageProcessorPil(size={"height": 42, "width": 42}).save_pretrained(source)
    assistant = trained(replace(recipe, vision=VisionSettings(source=source)), tmp_path / "align")
    assert assistant.model.image_tokens(32, 32) == 9
    assert type(assistant.model.vision.model) is ViTModel


def test_a_tracker(
    recipe: Recipe,
    tmp_path: Path,
    temporary_module: Callable[[str, str], ModuleType],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[object] = []

    class Listing:
        def __init__(self, run: TrackedRun) -> None:
            told.append(run.stage)

        def step(self, figures: StepFigures) -> None:
            told.append(figures.step)

        def close(self) -> None:
            told.append("closed")

    temporary_module("listing", "")  # the package that the tracker needs
    monkeypatch.setitem(TRACKERS, "listing", Listing)
    trained(replace(recipe, run=RunSettings(report_to=("listing",))), tmp_path / "align")
    assert told == ["align", 1, "closed"]


class Counter:
    """A teacher that says how many lines it was shown."""

    async def complete(self, messages: Sequence[Message]) -> Reply:
        shown = messages[-1].content.splitlines()
        return Reply(text=f"There are these lines: {' / '.join(shown)}", finish_reason="stop")


def test_a_reader_a_teacher_an_enrichment_and_an_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def read(source: Any) -> Found:
        names = source.path.read_text().split()
        scenes = (RawScene(name, f"{name}.png", name, captions=[f"A {name}."]) for name in names)
        return Found(source.path, scenes, captioned=True)

    def write(path: Path, records: Iterable[InstructionRecord]) -> int:
        lines = [f"{record.id}: {record.turns[-1].text}" for record in records]
        path.write_text("\n".join(lines))
        return len(lines)

    def width(image: Image.Image, _: object) -> list[str]:
        return [f"Width: {image.width}"]

    monkeypatch.setitem(READERS, "words", Reader("words", lambda one: one.suffix == ".w", read))
    monkeypatch.setitem(TEACHERS, "counter", lambda kind, categories, seed: Counter())
    monkeypatch.setitem(ENRICHMENTS, "width", Enrichment(width, "Width: "))
    monkeypatch.setitem(OUTPUTS, "lines", write)
    source, out, images = tmp_path / "all.w", tmp_path / "out.txt", tmp_path / "images"
    source.write_text("dog")
    images.mkdir()
    Image.new("RGB", (31, 20)).save(images / "dog.png")
    chosen = "--format words --teacher counter --enrich width --form lines --kinds detail"
    named = ["--annotations", str(source), "--images", str(images), "--out", str(out)]
    assert main(["synthesize", *named, *chosen.split()]) == 0
    assert out.read_text() == "dog-detail: There are these lines: A dog. /  / Width: 31"
    with pytest.raises(SystemExit):
        main(["synthesize", "--help"])
    shown = capsys.readouterr().out
    assert "{llava,jsonl,parquet,messages,lines}" in shown
    assert ",texture,width}" in shown


def test_a_task_and_a_metric(
    checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def questions(dataset_folder: Path, *, limit: int, seed: int) -> list[Question]:
        return [Question(id="1", images=("a.png",), kind="one", text="What?", references=("x",))]

    def lengths(asked: Sequence[Question], answers: Sequence[str]) -> list[float]:
        return [float(len(asked) == len(answers) == 1)]

    data = tmp_path / "data"
    (data / "photos").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(data / "photos" / "a.png")
    monkeypatch.setitem(METRICS, "answered", Metric("one answer a question", lengths, mean_score))
    task = Task(questions, "one thing", metrics=("answered",), images="photos")
    monkeypatch.setitem(TASKS, "single", task)
    out = tmp_path / "run"
    named = ["--task", "single", "--data", str(data), "--out", str(out)]
    assert main(["evaluate", checkpoint, *named]) == 0
    found = json.loads((out / "report.json").read_text())["tasks"]["single"]
    assert found["metrics"] == {"answered.accuracy": 1.0}


def test_an_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = Plan(
        done="The width was read.",
        arms=lambda bench: [Arm(name="nano", recipe=load_recipe("nano"), stages=())],
        measure=lambda bench, arm: {"width": Value(value=24.0 + bench.seed)},
        table=("width",),
        draw=lambda _: "<svg></svg>",
        conclude=lambda found: Answer(f"It is {found.spread('nano', 'width').mean:g} wide.", "-"),
    )
    monkeypatch.setitem(
        EXPERIMENTS, "width", Experiment("How wide is it?", 0.5, "none", lambda: plan)
    )
    assert main(["lab"]) == 0
    listed = capsys.readouterr().out
    assert re.search(r"width *│ How wide is it\? *│ 0\.5 *│ none", listed)
    assert re.search(r"blind-spots *│", listed)
    assert main(["lab", "width", "--out", str(tmp_path), "--seeds", "1"]) == 0
    told = capsys.readouterr().out
    assert re.search(r"│ nano *│ *24 *│", told)
    assert "It is 24 wide." in told


def test_a_chat_template(
    recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "bare.jinja"
    file.write_text(
        "{% for turn in messages %}{{ turn['role'][0] + '>' + turn['content'] + eos_token }}"
        "{% endfor %}{% if add_generation_prompt %}{{ 'a>' }}{% endif %}"
    )
    monkeypatch.setitem(SHIPPED_TEMPLATES, "bare", file)
    shown = ["inspect", str(tmp_path / "records.json"), "--masks", "1", "--template", "bare"]
    assert main(shown) == 0
    assert re.search(r"u>▣+\n*What colour\?</s>a>⟦red</s>⟧", capsys.readouterr().out)


def test_a_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nano = laterna.recipe.RECIPE_FOLDER / "nano.toml"
    (tmp_path / "mine.toml").write_text(nano.read_text().replace('name = "nano"', 'name = "mine"'))
    monkeypatch.setattr(laterna.recipe, "RECIPE_FOLDER", tmp_path)
    assert laterna.load_recipe("mine").name == "mine"
    with pytest.raises(SystemExit):
        main(["train", "mine", "--help"])
    assert "usage: laterna train mine" in capsys.readouterr().out


def test_a_layout_to_import(
    tiny_assistant: VisionLanguageModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    layout = Layout(lambda config: "mine" in config, "a `mine`", lambda *_: tiny_assistant)
    monkeypatch.setitem(LAYOUTS, "mine", layout)
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    theirs.mkdir()
    (theirs / "config.json").write_text('{"mine": 1}')
    assert main(["import", str(theirs), str(ours)]) == 0
    assert laterna.load(ours).model.image_tokens(32, 32) == 4
    (theirs / "config.json").write_text('{"model_type": "other"}')
    assert main(["import", str(theirs), str(tmp_path / "no")]) == 2
    assert "mine: a `mine`" in capsys.readouterr().err


def test_an_export_format(checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def names(assistant: VisionLanguageModel, folder: Path, precision: str) -> None:
        folder.mkdir()
        (folder / "names.txt").write_text(f"{precision}: {assistant.vision.width}")

    monkeypatch.setitem(EXPORTS, "names", Export(names, ("f16", "f32")))
    assert main(["export", checkpoint, str(tmp_path / "out"), "--to", "names"]) == 0
    assert (tmp_path / "out" / "names.txt").read_text() == "f16: 24"


def test_a_serving_engine(
    checkpoint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Listening] = []
    engine = ServingEngine(asked.append, lacks=frozenset({"threads"}))
    monkeypatch.setitem(ENGINES, "mine", engine)
    assert main(["serve", checkpoint, "--engine", "mine", "--port", "8011", "--name", "a"]) == 0
    assert [(one.model, one.port, one.name) for one in asked] == [(checkpoint, 8011, "a")]
    assert main(["serve", checkpoint, "--engine", "mine", "--threads", "2"]) == 2
    assert "--engine mine does not have it" in capsys.readouterr().err


def test_a_gpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    mine = Gpu(memory_gib=3, bfloat16=10, float32=5, source="made up")
    monkeypatch.setitem(GPUS, "MINE-3GB", mine)
    assert main(["plan", "nano", "--stage", "align", "--gpu", "MINE-3GB"]) == 0
    assert "of nano: fits MINE-3GB" in capsys.readouterr().out


def test_a_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Twice(Command, frozen=True, kw_only=True):
        """Say a number twice."""

        number: int
        """What to say."""

        def run(self) -> str:
            return f"{self.number} {self.number}"

    monkeypatch.setitem(COMMANDS, "twice", Twice)
    assert main(["twice", "--number", "7"]) == 0
    assert capsys.readouterr().out == "7 7\n"
