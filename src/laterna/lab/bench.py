"""What the arms of an experiment share: the world, its data, prepared records, cached features.

    OUT/shared/SIZE-SEED/     world, captions.json, instructions.json, prepared, features
    OUT/trained/KEY-STAGE/    checkpoints; the key is a digest of all that decides them

Two arms, or two experiments, that need the same checkpoint train it once.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import msgspec
import rich
from msgspec.structs import replace

from laterna.data.preparation import cores
from laterna.evaluation.run import evaluate
from laterna.evaluation.tasks.base import IMAGE_FOLDER
from laterna.files import write_json
from laterna.inference.assistant import Assistant, load
from laterna.lab.experiment import Answer as Concluded
from laterna.lab.experiment import Arm, Measures, Results, Value, change
from laterna.recipe import Recipe, RunSettings, StageName
from laterna.records import Answer, InstructionRecord, Kind, Question, Record, Truth
from laterna.synthesis.outputs.llava import llava_row
from laterna.synthesis.run import INSTRUCTION_KINDS, synthesize
from laterna.training.resume import METRICS
from laterna.training.run import train
from laterna.training.telemetry import read_metrics
from laterna.world.dataset import write_world

LAST_SHARE = 0.1
"""The share of a stage's last steps whose mean loss is its plateau."""


class Size(Record):
    """How much of everything an experiment uses; 0 steps: as many as the recipe's epochs hold."""

    images: int
    validation_images: int
    align_steps: int = 0
    instruct_steps: int = 0


FULL = Size(images=1000, validation_images=200)
QUICK = Size(images=160, validation_images=90, align_steps=8, instruct_steps=12)
"""Shows that an experiment works; its numbers mean nothing."""


class Cost(Record):
    """What some work took."""

    seconds: float
    """On the clock, with all that other work on the machine took from it."""
    processor_seconds: float
    """Of all cores, helpers' work that has ended included: other work adds nothing to it."""

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            seconds=self.seconds + other.seconds,
            processor_seconds=self.processor_seconds + other.processor_seconds,
        )

    def __sub__(self, other: Cost) -> Cost:
        return Cost(
            seconds=self.seconds - other.seconds,
            processor_seconds=self.processor_seconds - other.processor_seconds,
        )


NOTHING = Cost(seconds=0, processor_seconds=0)


def spent() -> Cost:
    """Return what this process took until now, from some moment on: for differences."""
    took = os.times()
    own = took.user + took.system + took.children_user + took.children_system
    return Cost(seconds=time.perf_counter(), processor_seconds=own)


class Bench:
    """The place where the arms of one seed are trained and measured."""

    def __init__(self, out: Path, recipe: Recipe, *, seed: int, size: Size) -> None:
        self.out, self.size, self.seed = out, size, seed
        self.shared = out / "shared" / f"{size.images}+{size.validation_images}-{seed}"
        self.world, self.validation = self.shared / "world", self.shared / "validation"
        self.training: dict[str, Cost] = {}
        """Checkpoint's name to what its training took, of all that were asked for."""
        self.trained = NOTHING
        """What all training that was done now took."""
        self._plain = recipe
        self._loaded: tuple[Path, Assistant] | None = None

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe on this seed's data, which is drawn when it is first asked for."""
        recipe, images = self._plain, str(self.world / IMAGE_FOLDER)
        self._draw()
        return replace(
            recipe,
            seed=self.seed,
            prepared=str(self.shared / "prepared"),
            feature_cache=str(self.shared / "features"),
            align=replace(
                recipe.align,
                data=str(self.data("captions", "caption")),
                images=images,
                sources=(),
                max_steps=self.size.align_steps,
            ),
            instruct=replace(
                recipe.instruct,
                data=str(self.data("instructions", *INSTRUCTION_KINDS)),
                images=images,
                sources=(),
                max_steps=self.size.instruct_steps,
            ),
        )

    def _draw(self) -> None:
        sizes = {self.world: self.size.images, self.validation: self.size.validation_images}
        for folder, images in sizes.items():
            if not folder.exists():
                start = self.size.images if folder == self.validation else 0
                write_world(folder, images=images, seed=self.seed, start=start, workers=cores())

    def data(self, name: str, *kinds: Kind) -> Path:
        """Return a file of the world's records of some kinds, written when it is first asked for.

        Conversations are written from boxes too: without them nothing can be counted or placed.
        """
        path = self.shared / f"{name}.json"
        if not path.exists():
            synthesize(
                self.world, path, kinds=kinds, seed=self.seed, conversation_boxes=name != "caption"
            )
        return path

    @property
    def images(self) -> Path:
        """The folder of the world's images, where an experiment may lay its own."""
        self._draw()
        return self.world / IMAGE_FOLDER

    def taught(
        self, name: str, records: Iterable[InstructionRecord], *, base: Path | None = None
    ) -> Recipe:
        """Return the recipe whose stage 2 learns from further records too.

        They are written to a file with the records of `base` before them, by default the recipe's
        own; their images lie beside the world's.
        """
        base = base or Path(self.recipe.instruct.data)
        rows = msgspec.json.decode(base.read_bytes(), type=list[msgspec.Raw])
        rows += [msgspec.Raw(msgspec.json.encode(llava_row(record))) for record in records]
        told = hashlib.sha256(b"".join(rows)).hexdigest()[:8]  # another list is another file
        path = self.cached(f"{name}-{told}.json")
        if not path.exists():
            write_json(path, rows)
        return change(self.recipe, {"instruct.data": str(path)})

    def cached(self, name: str) -> Path:
        """Return a place in the shared folder for data that an experiment makes by itself."""
        return self.shared / name

    def train(self, arm: Arm, stage: StageName = "instruct") -> Path:
        """Return the checkpoint of an arm's stage, trained now unless it stands there.

        Raises LaternaError for what stops training.
        """
        place = arm.stages.index(stage)
        before = self.train(arm, arm.stages[place - 1]) if place else None
        folder = self.out / "trained" / f"{_key(arm.recipe, arm.stages[: place + 1])}-{stage}"
        if not folder.exists():
            rich.get_console().print(f"arm {arm.name}, seed {self.seed}: {stage}", soft_wrap=True)
            began = spent()
            train(arm.recipe, stage=stage, out=folder, init_from=before)
            took = spent() - began
            self.trained += took
            write_json(_cost_file(folder), took)
        if _cost_file(folder).is_file():  # missing where a run was ended in between
            cost = msgspec.json.decode(_cost_file(folder).read_bytes(), type=Cost)
            self.training[folder.name] = cost
        return folder

    def load(self, checkpoint: Path) -> Assistant:
        """Return an assistant on the CPU or the accelerator; the last one is kept."""
        if self._loaded is None or self._loaded[0] != checkpoint:
            self._loaded = checkpoint, load(checkpoint)
        return self._loaded[1]

    def losses(self, checkpoint: Path) -> list[float]:
        """Return the loss of every step of a stage, in nats a token."""
        return [step.loss for step in read_metrics(checkpoint / METRICS)]

    def plateau(self, checkpoint: Path) -> Value:
        """Return the mean loss of a stage's last steps, their losses kept.

        Arms on the same data see the same records in the same steps, so the losses are pairs.
        """
        losses = self.losses(checkpoint)
        return score_value(losses[-max(2, round(len(losses) * LAST_SHARE)) :])

    def shifted(self, name: str, change: Callable[[Truth], Truth]) -> Path:
        """Return a dataset of the held-out scenes, each changed before it was drawn."""
        folder = self.shared / name
        if not folder.exists():
            count, start = self.size.validation_images, self.size.images
            write_world(folder, images=count, seed=self.seed, start=start, change=change)
        return folder

    def examine(
        self,
        checkpoint: Path,
        *,
        blank: bool = True,
        dataset: Path | None = None,
        group: Callable[[Question], str] | None = None,
    ) -> Measures:
        """Ask the world's questions about images that were held out: shares of right answers.

        `accuracy` over all, `accuracy KIND` by kind, and with `blank` the control `blank image`.
        `dataset` is asked about in the place of the bench's own. `group` names a further group of
        a question, the empty name none: `accuracy GROUP`.
        """
        found = evaluate(
            self.load(checkpoint),
            "world",
            dataset or self.validation,
            seed=self.seed,
            controls=("blank",) if blank else (),
        )
        measures = {"accuracy": scored(found.answers)}
        groups = [group(one.question) if group else "" for one in found.answers]
        for name in sorted({*groups} - {""}):
            own = [one for one, its in zip(found.answers, groups, strict=True) if its == name]
            measures[f"accuracy {name}"] = scored(own)
        for kind in found.scores.kinds:
            own = [one for one in found.answers if one.question.kind == kind.name]
            measures[f"accuracy {kind.name}"] = scored(own)
        for control in found.controls:
            measures[f"{control.name} image"] = Value(value=control.scores.overall.mean)
        return measures


class Plan(NamedTuple):
    """How an experiment is carried out."""

    done: str
    """What is done, in a few sentences, for the page."""
    arms: Callable[[Bench], Sequence[Arm]]
    """The arms, the first of which is what the others are held against."""
    measure: Callable[[Bench, Arm], Measures]
    """Trains an arm as far as it needs, and measures it."""
    table: Sequence[str] | Mapping[str, Sequence[str]]
    """Measures that the page's table shows, in order, or the tables' titles with theirs. An arm
    without any of a table's measures has no row in it; a single missing one is a dash."""
    draw: Callable[[Results], str]
    """Draws the one figure, as an `<svg>` element."""
    conclude: Callable[[Results], Concluded]
    """Answers the question from the numbers."""
    published: str = ""
    """What others found about the question, with the source; a sentence or two."""


def scored(answers: Sequence[Answer]) -> Value:
    """Return the mean score of answers, each score kept."""
    return score_value([one.score for one in answers])


def score_value(scores: Sequence[float]) -> Value:
    """Return the mean of scores with the scores; not a number over none."""
    mean = sum(scores) / len(scores) if scores else float("nan")
    return Value(value=mean, scores=tuple(map(float, scores)))


def _cost_file(checkpoint: Path) -> Path:
    return checkpoint.parent / f"{checkpoint.name}.json"


def _key(recipe: Recipe, stages: Sequence[StageName]) -> str:
    """Return a digest of what decides a checkpoint: the recipe without what its stages ignore."""
    if "instruct" not in stages:
        recipe = replace(recipe, instruct=recipe.align)
    if "align" not in stages:
        recipe = replace(recipe, align=recipe.instruct)
    # Whether features come from a cache decides how long it takes, and no weight.
    recipe = replace(recipe, run=RunSettings(), threads=0, feature_cache="")
    told = msgspec.json.encode((stages, recipe))
    return hashlib.sha256(told).hexdigest()[:12]
