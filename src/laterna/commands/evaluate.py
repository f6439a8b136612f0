"""`laterna evaluate`: a checkpoint is asked questions with known answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from laterna.choices import KeysOf
from laterna.commands.base import Command, Reads, Where, Writes, show_some
from laterna.files import write_atomically, write_json, write_lines
from laterna.recipe import Number, Seed


class Evaluate(Command, frozen=True, kw_only=True):
    """Ask an assistant questions with known answers; score it beside the same with no image."""

    model: Positional[str]
    """A Laterna checkpoint, a llava-hf or original LLaVA folder, or a hub id of one."""
    data: Path
    """Dataset folder of the task."""
    task: Annotated[str, KeysOf("laterna.evaluation.tasks:TASKS")] = "world"
    """Task: `world` (questions about the tabletop world) or `boxes` (questions that the boxes of a
    COCO-format dataset decide)."""
    limit: Number = 0
    """Maximum number of questions. 0: all."""
    seed: Seed = 0
    """Random seed of the choice and wording of the questions."""
    out: Path | None = None
    """JSON file for the figures; default: only printed."""
    answers: Path | None = None
    """JSON lines file for every question with its answer; default: they are only counted."""
    controls: bool = True
    """Also ask everything about a blank image."""
    baseline: str = ""
    """Another assistant that answers the same questions, such as the stage-1 checkpoint."""
    where: Annotated[Where, arg(name="")] = Where()

    def reads(self) -> Iterator[Reads]:
        """Name the checkpoints and the dataset."""
        from laterna.evaluation.tasks import find_task

        find_task(self.task)
        yield Reads(self.data, kind="folder")
        models = (self.model, self.baseline)
        yield from (Reads(Path(name), kind="maybe") for name in models if name)

    def writes(self) -> Iterator[Writes]:
        """Name the figures and the answers."""
        yield from (Writes(path) for path in (self.answers, self.out) if path is not None)

    def run(self) -> str:
        """Call `laterna.evaluation.run` and show the table."""
        from rich.console import Console

        from laterna.evaluation.run import evaluate, figures, score_table

        evaluation = evaluate(
            self.where.load(self.model),
            self.task,
            self.data,
            limit=self.limit,
            seed=self.seed,
            blank=self.controls,
            before_instruct=self.where.load(self.baseline) if self.baseline else None,
        )
        Console().print(score_table(evaluation))
        show_some("not asked", [skipped.message for skipped in evaluation.skipped])
        found = figures(evaluation)
        counts = [f"; {count} not asked: {reason}" for reason, count in found.skipped.items()]
        made = f"evaluated {self.model}: {found.overall:.3f} of {found.questions} right"
        made += "".join(counts)
        if self.answers is not None:
            with write_atomically(self.answers) as aside:
                write_lines(aside, evaluation.answers)
            made += f"; made {self.answers}"
        if self.out is None:
            return made
        write_json(self.out, found)
        return f"{made}; made {self.out}"
