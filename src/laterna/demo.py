"""The demo: the whole path on the embedded world, each step a call that the command line has too.

A step whose result is there is not done again, so a demo that was interrupted goes on at the
first step that had not finished.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import msgspec
import rich
from msgspec.structs import asdict, replace
from rich.table import Table

from laterna.data.preparation import cores
from laterna.errors import LaternaError
from laterna.evaluation.run import (
    CONTROLS,
    Evaluation,
    Figures,
    evaluate,
    figures,
    score_table,
)
from laterna.evaluation.tasks.base import IMAGE_FOLDER
from laterna.files import Made, held, some, write_atomically, write_json
from laterna.inference.assistant import Assistant, load
from laterna.lab.bench import Size
from laterna.model.checkpoint import read_manifest
from laterna.recipe import Recipe, load_recipe
from laterna.records import Record
from laterna.report.explanation import Explained, explained
from laterna.report.page import (
    Column,
    EvaluationShown,
    Example,
    ReportContent,
    choose_examples,
    curve_of,
    write_report,
)
from laterna.report.training import find_stages, stage_shown
from laterna.scenes.phrases import SHORT_ANSWER
from laterna.synthesis.run import INSTRUCTION_KINDS, synthesize
from laterna.training.run import train
from laterna.world.dataset import write_world

VERSIONED = ("laterna", "torch", "transformers", "tokenizers", "numpy", "pillow")
NOTES = {
    **CONTROLS,
    "assistant": "The assistant after both stages, asked about the image.",
    "before_instruct": "The assistant after stage 1: its language model has never been tuned.",
}
EVALUATED = {"world": 0, "world_pope": 400, "world_chair": 100}
"""Task to the most questions of it; 0: all. The first is what the page is about."""
HALLUCINATION = {
    "POPE F1, mean of the samplings": ("world_pope", "pope.f1_mean"),
    "POPE accuracy": ("world_pope", "pope.accuracy"),
    "POPE, share of yes": ("world_pope", "pope.yes_ratio"),
    "CHAIRs, descriptions with something absent": ("world_chair", "chair.chair_s"),
    "CHAIRi, mentions of something absent": ("world_chair", "chair.chair_i"),
}
"""The report's scores of objects that are not there, to their task and value."""
HALLUCINATION_COLUMNS = ("after stage 2", "95 %", "after stage 1")
EXPLAINED = 5
"""Of the examples, how many are explained: one of each of the first kinds."""
RECIPES = {
    "prefix": "nano",
    "cross_attention": "nano-flamingo",
    "encoder_decoder": "nano-pali",
}
"""The shipped recipe of each fusion (`model.fusion.FUSIONS`)."""


FULL = Size(images=3000, validation_images=300)
QUICK = Size(images=240, validation_images=40, align_steps=12, instruct_steps=24)


class Started(Record):
    """What a demo's folder records of its run, so that it resumes the same one."""

    seed: int
    quick: bool
    fusion: str = "prefix"
    seconds: dict[str, float] = msgspec.field(default_factory=dict)
    """Seconds of each finished step."""


class StageLosses(Record):
    """Loss of a stage's first step, and mean of its last steps; nats a target token."""

    first: float
    last: float


class DemoReport(Figures, kw_only=True):
    """The demo's figures, as `report.json` holds them."""

    hallucination: dict[str, Figures]
    """Of the world's POPE and CHAIR, by task."""
    losses: dict[str, StageLosses]
    seconds: dict[str, float]
    seed: int
    quick: bool
    fusion: str
    versions: dict[str, str]


def run_demo(out: Path, seed: int, quick: bool, fusion: str = "prefix") -> Path:
    """Run the whole path in folder `out` and return the report's page; `fusion` is a key of
    `RECIPES`.

    Raises LaternaError when `out` has the demo of another seed, size or fusion, or anything else,
    and while another process runs it.
    """
    with held(out / "demo", "laterna demo"):
        return _Demo(out, Started(seed=seed, quick=quick, fusion=fusion)).run()


class _Demo:
    """The steps of a demo in its folder."""

    def __init__(self, out: Path, asked: Started) -> None:
        self.out, self.size = out, QUICK if asked.quick else FULL
        self.console = rich.get_console()
        self.started = self._resume(asked)
        self.seed = asked.seed
        self.train_data, self.validation = out / "world" / "train", out / "world" / "validation"
        self.captions, self.instructions = out / "captions.json", out / "instructions.json"
        self.align, self.instruct = out / "align", out / "instruct"
        self.page, self.figures = out / "report.html", out / "report.json"

    def run(self) -> Path:
        """Do the steps that are not done yet, in the order of the path."""
        self._step("1 draw the world", self.out / "world", self._draw)
        self._step("2 synthesize", self.instructions, self._synthesize)
        self._step("3 stage 1, align", self.align, self._train_align)
        self._step("4 stage 2, instruct", self.instruct, self._train_instruct)
        self._step("5 evaluate, report", self.page, self._evaluate)
        example = self.validation / IMAGE_FOLDER / f"{self.size.images:06d}.png"
        self.console.print("talk to it:", style="bold")
        self.console.print(
            f"  laterna chat {self.instruct} --image {example}", soft_wrap=True, markup=False
        )
        return self.page

    def _resume(self, asked: Started) -> Started:
        path = self.out / "demo.json"
        if not path.is_file():
            inside = sorted(one.name for one in self.out.iterdir() if not one.name.startswith("."))
            if inside:
                raise LaternaError(
                    f"{self.out}: is not empty, and no demo is in it (it holds {some(inside)}); "
                    "choose another folder with --out"
                )
            self._remember(asked)
            return asked
        found = msgspec.json.decode(path.read_bytes(), type=Started)
        if replace(found, seconds={}) != asked:
            size = "quick" if found.quick else "full"
            raise LaternaError(
                f"{self.out}: holds the {size} demo of seed {found.seed} with {found.fusion}; "
                "choose another folder with --out, or remove this one"
            )
        return found

    def _step(self, name: str, result: Path, work: Callable[[], str]) -> None:
        """Do a step unless its result is there, and record how long it took."""
        self.console.rule(name, align="left")
        if name in self.started.seconds and result.exists():
            self.console.print(f"{result}: done before", soft_wrap=True, markup=False)
            return
        began = time.perf_counter()
        line = work()
        seconds = self.started.seconds | {name: round(time.perf_counter() - began, 2)}
        self.started = replace(self.started, seconds=seconds)
        self._remember(self.started)
        self.console.print(f"{line} ({seconds[name]:.0f} s)", soft_wrap=True, markup=False)

    def _remember(self, started: Started) -> None:
        with write_atomically(self.out / "demo.json") as aside:
            aside.write_bytes(msgspec.json.encode(started))

    def _draw(self) -> str:
        of = {"seed": str(self.seed), "images": str(self.size.images)}
        with write_atomically(self.out / "world", Made(kind="demo's world", of=of)) as aside:
            training = write_world(
                aside / "train",
                images=self.size.images,
                seed=self.seed,
                workers=cores(),
            )
            validation = write_world(
                aside / "validation",
                images=self.size.validation_images,
                seed=self.seed,
                start=self.size.images,
            )
        return (
            f"drew {training.images} images to train on in {self.train_data} "
            f"and {validation.images} for questions in {self.validation}"
        )

    def _synthesize(self) -> str:
        captions = synthesize(self.train_data, self.captions, kinds=("caption",), seed=self.seed)
        # Boxes for conversations too: without them nothing can be counted or placed.
        instructions = synthesize(
            self.train_data,
            self.instructions,
            kinds=INSTRUCTION_KINDS,
            seed=self.seed,
            conversation_boxes=True,
        )
        return f"{captions.line()}\n{instructions.line()}"

    def _recipe(self) -> Recipe:
        recipe = load_recipe(RECIPES[self.started.fusion])
        images = str(self.train_data / IMAGE_FOLDER)
        return replace(
            recipe,
            seed=self.seed,
            prepared=str(self.out / "prepared"),
            feature_cache=str(self.out / "features"),
            align=replace(
                recipe.align,
                data=str(self.captions),
                images=images,
                max_steps=self.size.align_steps,
            ),
            instruct=replace(
                recipe.instruct,
                data=str(self.instructions),
                images=images,
                max_steps=self.size.instruct_steps,
            ),
        )

    def _train_align(self) -> str:
        train(self._recipe(), stage="align", out=self.align)
        losses = self._losses("align")
        return f"loss {losses.first:.3f} -> {losses.last:.3f}; connector in {self.align}"

    def _train_instruct(self) -> str:
        train(self._recipe(), stage="instruct", out=self.instruct, init_from=self.align)
        losses = self._losses("instruct")
        return f"loss {losses.first:.3f} -> {losses.last:.3f}; assistant in {self.instruct}"

    def _losses(self, stage: str) -> StageLosses:
        found = read_manifest(self.out / stage).figures
        return StageLosses(first=found["loss_first"], last=found["loss_last"])

    def _evaluate(self) -> str:
        began = time.perf_counter()
        after, before = load(self.instruct), load(self.align)
        evaluation, *others = (
            evaluate(
                after,
                task,
                self.validation,
                limit=limit,
                seed=self.seed,
                controls=tuple(CONTROLS) if task == "world" else (),
                before_instruct=before,
            )
            for task, limit in EVALUATED.items()
        )
        found = figures(evaluation)
        hallucination = {other.task: figures(other) for other in others}
        self.console.print(score_table(evaluation))
        self.console.print(_hallucination_table(hallucination))
        report = DemoReport(
            **asdict(found),
            hallucination=hallucination,
            losses={stage: self._losses(stage) for stage in ("align", "instruct")},
            seconds=self.started.seconds | {"5 evaluate": round(time.perf_counter() - began, 2)},
            seed=self.seed,
            quick=self.started.quick,
            fusion=self.started.fusion,
            versions={name: version(name) for name in VERSIONED},
        )
        write_json(self.figures, report)
        content = self._content(evaluation, report)
        shown, missing = _explanations(after, content.examples[:EXPLAINED])
        write_report(self.page, replace(content, explanations=shown, unexplained=missing))
        return f"{found.overall:.3f} of {found.questions} questions right; report in {self.page}"

    def _content(self, evaluation: Evaluation, report: DemoReport) -> ReportContent:
        scores = {"assistant": evaluation.scores}
        scores |= {control.name: control.scores for control in evaluation.controls}
        stages = find_stages(self.out)
        return ReportContent(
            title="Laterna: the demo",
            summary=(
                f"{self.size.images} drawn images to train on, "
                f"{report.questions} questions about {self.size.validation_images} others. "
                f"{report.overall:.1%} answered right by exact match."
            ),
            columns=tuple(
                Column(name=name, note=NOTES[name], scores=found) for name, found in scores.items()
            ),
            curves=tuple(curve_of(stage.name, stage.steps) for stage in stages),
            stages=tuple(map(stage_shown, stages)),
            evaluations=(
                EvaluationShown(
                    name="Things that are not there",
                    questions=sum(one.questions for one in report.hallucination.values()),
                    columns=HALLUCINATION_COLUMNS,
                    rows=tuple(_hallucination_rows(report.hallucination)),
                ),
            ),
            examples=choose_examples(evaluation.answers, self.validation / IMAGE_FOLDER),
            skipped=tuple(skipped.message for skipped in evaluation.skipped),
            settings=(("seed", str(self.seed)), ("recipe", RECIPES[self.started.fusion])),
            seconds=tuple(report.seconds.items()),
            versions=tuple(report.versions.items()),
            next_command=f"laterna chat {self.instruct} --image IMAGE",
        )


def _explanations(
    assistant: Assistant, examples: Sequence[Example]
) -> tuple[tuple[Explained, ...], tuple[str, ...]]:
    """Return explanations of answers, and for those without one how many and why."""
    shown: list[Explained] = []
    missing: Counter[str] = Counter()
    for one in examples:
        try:
            found = assistant.explain(one.image, one.question + SHORT_ANSWER)
            shown.append(explained(one.question, found))
        except LaternaError as error:
            missing[str(error)] += 1
    return tuple(shown), tuple(f"{count} × {why}" for why, count in missing.items())


def _hallucination_rows(found: Mapping[str, Figures]) -> Iterator[tuple[str, ...]]:
    """Yield a score's name, its value, the ends of its interval, and its value after stage 1."""
    for name, (task, value) in HALLUCINATION.items():
        own, before = found[task], found[task].controls["before_instruct"]
        ends = own.intervals.get(value, (math.nan, math.nan))
        around = "" if math.isnan(ends[0]) else " to ".join(f"{end:.3f}" for end in ends)
        yield name, _figure(own.metrics[value]), around, _figure(before.metrics[value])


def _figure(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.3f}"


def _hallucination_table(found: Mapping[str, Figures]) -> Table:
    table = Table("things that are not there", *HALLUCINATION_COLUMNS)
    for row in _hallucination_rows(found):
        table.add_row(*row)
    return table
